//! Edge: makes the link match the picture of announced VIPs. Sends the bursts, joins the groups
//! and, where the data plane does not answer, answers. Asks for VIPs that are to be probed, hears
//! what others claim, and defends.
//!
//! Must never send a frame for a VIP that is not in the picture at that moment, nor once the
//! deadline has passed: both are asked immediately before each frame. The kernel's fence asks
//! again; where there is none (mode `off`), this is all there is. Read [`crate::responder`],
//! [`crate::announcement`], [`crate::burst`] and [`crate::conflict`] first: they decide, this file
//! performs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};

use crate::announcement;
use crate::burst::{Bursts, Key};
use crate::clock::boot_now;
use crate::conflict::{Action, Conflicts, Input, Timing};
use crate::counters::{Counters, Shared};
use crate::error::Error;
use crate::groups::{Groups, Membership};
use crate::links::Links;
use crate::listener::{Heard, Listener};
use crate::neighbours::{Reports, Standings, Told};
use crate::picture::{Announced, Answering, Neighbourhood, Picture, Wanted, ours, wanted, wants};
use crate::probe;
use crate::responder::LinkIdentity;
use crate::socket::{self, Kind, PacketSocket};
use crate::voice::{Responder, Voice, is_gone};
use crate::wire::MacAddr;

/// The announcer is a task; this type is where one is started.
#[derive(Debug)]
pub struct Announcer {
    links: watch::Receiver<Arc<Links>>,
    default_answering: Answering,
    voice: Voice,
    bursts: Bursts,
    groups: Groups,
    /// Groups that could not be joined, each told once.
    failed_groups: BTreeSet<Membership>,
    interfaces: BTreeMap<u32, Interface>,
    conflicts: Conflicts,
    told: Told,
    /// Where listeners put the claims they hear; the first is cloned for each listener.
    claims: (mpsc::Sender<Heard>, mpsc::Receiver<Heard>),
    /// Responders and listeners.
    tasks: JoinSet<Result<(), Error>>,
}

/// Sets the picture and reads the counters. When the last clone is dropped, the announcer falls
/// silent and its task ends.
#[derive(Clone, Debug)]
pub struct AnnouncerHandle {
    picture: Arc<watch::Sender<Picture>>,
    counters: Shared,
    standings: watch::Receiver<Standings>,
    conflicts: watch::Receiver<Reports>,
}

impl AnnouncerHandle {
    /// Replaces the picture. No frame leaves for a removed VIP once this has returned, but for one
    /// that is being handed to the kernel at this very moment. A VIP that is new on an interface is
    /// announced; one that stays is left alone. What is known of the neighbourhood stays.
    pub fn set(&self, announced: Arc<Announced>) {
        self.picture.send_modify(|picture| {
            let others = picture.neighbourhood.clone();
            picture.replace(announced, others);
        });
    }

    /// As [`Self::set`], with the VIPs that have to be asked for first and the other speakers of
    /// the cluster. From the first call on, what others claim is listened to.
    ///
    /// A VIP moves from probed to announced by the caller's next call, after its standing has
    /// become clear: so the caller can let the data plane answer before an announcement draws
    /// traffic.
    pub fn set_among(&self, announced: Arc<Announced>, others: Arc<Neighbourhood>) {
        self.picture.send_modify(|picture| picture.replace(announced, Some(others)));
    }

    /// What is known of every VIP's use by others. Before a VIP is in it, nothing is.
    pub fn standings(&self) -> watch::Receiver<Standings> {
        self.standings.clone()
    }

    /// VIPs that somebody outside the cluster uses, too.
    pub fn conflicts(&self) -> watch::Receiver<Reports> {
        self.conflicts.clone()
    }

    /// What has been done so far.
    pub fn counters(&self) -> Counters {
        self.counters.snapshot()
    }
}

/// An interface on which at least one VIP is announced.
#[derive(Debug)]
struct Interface {
    name: String,
    mac: MacAddr,
    answering: Answering,
    is_listening: bool,
    /// With the number of the change that brought each, see [`Picture::gained`].
    vips: BTreeMap<IpAddr, u64>,
    /// The part of them whose burst was started, and for which change.
    announced: BTreeMap<IpAddr, u64>,
    probed: BTreeSet<IpAddr>,
    socket: Arc<PacketSocket>,
    /// Hears ARP claims of the VIPs, so its filter follows them.
    arp_claims: Option<Arc<PacketSocket>>,
    tasks: Vec<AbortHandle>,
}

impl Interface {
    /// Whether the open sockets still serve what is wanted; a difference in VIPs does not matter.
    fn serves(&self, wanted: &Wanted) -> bool {
        (&self.name, self.mac, self.answering, self.is_listening)
            == (&wanted.name, wanted.mac, wanted.answering, wanted.is_listening)
    }

    /// VIPs that are announced or probed.
    fn all_vips(&self) -> impl Iterator<Item = IpAddr> {
        self.vips.keys().chain(&self.probed).copied()
    }

    /// Takes in which VIPs are wanted, all on open sockets.
    fn follow(&mut self, wanted: Wanted) -> Result<(), Error> {
        let before: Vec<IpAddr> = self.all_vips().collect();
        self.vips = wanted.vips;
        self.probed = wanted.probed;
        let Some(socket) = self.arp_claims.as_ref().filter(|_| !self.all_vips().eq(before)) else {
            return Ok(());
        };
        socket.hear_claims_of(self.all_vips().filter_map(|vip| match vip {
            IpAddr::V4(vip) => Some(vip),
            IpAddr::V6(_) => None,
        }))
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Announcer {
    /// Starts the task with an empty picture. `deadline` is in boot-time nanoseconds, as the fence
    /// in the kernel has it; the owner of the session moves it ahead.
    ///
    /// The task ends with `Ok` when the last handle is dropped, and with an error when packet
    /// sockets are not allowed or fail, or the watch over links ends.
    pub fn start(
        links: watch::Receiver<Arc<Links>>,
        answering: Answering,
        deadline: Arc<AtomicU64>,
    ) -> (AnnouncerHandle, JoinHandle<Result<(), Error>>) {
        Self::start_with(links, answering, deadline, Timing::default())
    }

    /// As [`Self::start`], with another timing of probes and defences.
    pub fn start_with(
        links: watch::Receiver<Arc<Links>>,
        answering: Answering,
        deadline: Arc<AtomicU64>,
        timing: Timing,
    ) -> (AnnouncerHandle, JoinHandle<Result<(), Error>>) {
        let (sender, picture) = watch::channel(Picture::default());
        let (counters, told) = (Shared::default(), Told::default());
        let standings = told.standings.subscribe();
        let handle = AnnouncerHandle {
            picture: Arc::new(sender),
            counters: counters.clone(),
            standings: standings.clone(),
            conflicts: told.conflicts.subscribe(),
        };
        let announcer = Self {
            links,
            default_answering: answering,
            voice: Voice { picture, deadline, counters, standings },
            bursts: Bursts::default(),
            groups: Groups::default(),
            failed_groups: BTreeSet::new(),
            interfaces: BTreeMap::new(),
            conflicts: Conflicts::new(timing),
            told,
            claims: mpsc::channel(CLAIMS),
            tasks: JoinSet::new(),
        };
        (handle, tokio::spawn(announcer.run()))
    }

    async fn run(mut self) -> Result<(), Error> {
        socket::check_permission()?;
        loop {
            let wait = self.wait();
            tokio::select! {
                changed = self.voice.picture.changed() => match changed {
                    Ok(()) => self.reconcile()?,
                    Err(_) => return Ok(()),
                },
                changed = self.links.changed() => match changed {
                    Ok(()) => self.reconcile()?,
                    Err(_) => return Err(Error::LinksEnded),
                },
                Some(heard) = self.claims.1.recv() => self.hear(heard),
                Some(ended) = self.tasks.join_next() => task_ended(ended)?,
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
            if !self.failed_groups.is_empty() {
                self.join_groups();
            }
            self.watch_conflicts();
            self.announce();
        }
    }

    /// How long nothing has to be done, unless something changes.
    fn wait(&self) -> Option<Duration> {
        let round = self.bursts.next_deadline();
        let timer = round.into_iter().chain(self.conflicts.next_deadline()).min().map(|due| {
            let fenced = if self.voice.may_speak() { Duration::ZERO } else { FENCED_RECHECK };
            due.saturating_sub(boot_now()).max(fenced)
        });
        let groups = (!self.failed_groups.is_empty()).then_some(GROUPS_RETRY);
        timer.into_iter().chain(groups).min()
    }

    /// Sends the rounds that are due. Before the deadline is set, or after it has passed, they stay
    /// due: a VIP gained just before the first renewal is announced just after it.
    fn announce(&mut self) {
        if !self.voice.may_speak() {
            return;
        }
        for Key { vip, ifindex } in self.bursts.due(boot_now()) {
            let Some(interface) = self.interfaces.get(&ifindex) else { continue };
            for frame in announcement::frames(vip, interface.mac) {
                if self.voice.is_announced(vip, &interface.name) {
                    self.voice.send(&interface.socket, &frame, |c| {
                        c.announcements += 1;
                        c.of(vip).announcements += 1;
                    });
                }
            }
        }
    }

    /// Looks at a claim, and at those that came with it.
    fn hear(&mut self, first: Heard) {
        let mut next = Some(first);
        while let Some(Heard { ifindex, claim }) = next {
            let actions = self.conflicts.handle(Input::Heard { ifindex, claim }, boot_now());
            self.act(actions);
            next = self.claims.1.try_recv().ok();
        }
    }

    /// Asks for VIPs whose turn it is, and follows the verdicts. Without the right to speak the
    /// VIPs are not ours, so the time of asking waits with that of announcing.
    fn watch_conflicts(&mut self) {
        if self.voice.may_speak() {
            let actions = self.conflicts.handle(Input::Tick, boot_now());
            self.act(actions);
        }
        if self.conflicts.take_news() {
            self.told.tell(&self.conflicts);
            self.follow_standings();
        }
    }

    fn act(&self, actions: Vec<Action>) {
        for action in actions {
            let (Action::Probe(Key { vip, ifindex }) | Action::Defend(Key { vip, ifindex })) =
                action;
            let Some(interface) = self.interfaces.get(&ifindex) else { continue };
            let (mac, socket) = (interface.mac, &interface.socket);
            match action {
                // Asking claims nothing; but a VIP no longer held is not asked for either.
                Action::Probe(_) if self.voice.picture.borrow().concerns(vip, &interface.name) => {
                    self.voice.send(socket, &probe::frame(vip, mac), |c| c.probes += 1);
                }
                Action::Defend(_) if self.voice.is_announced(vip, &interface.name) => {
                    let frame = announcement::defence(vip, mac);
                    self.voice.send(socket, &frame, |c| c.defences += 1);
                }
                Action::Probe(_) | Action::Defend(_) => {}
            }
        }
    }

    /// Starts the bursts of VIPs that may be announced, and stops those of all others.
    fn follow_standings(&mut self) {
        let now = boot_now();
        for (&ifindex, interface) in &mut self.interfaces {
            let Interface { vips, announced, .. } = interface;
            announced.retain(|&vip, _| {
                let stays = vips.contains_key(&vip) && self.conflicts.is_clear(vip);
                if !stays {
                    self.bursts.stop(&Key { vip, ifindex });
                }
                stays
            });
            for (&vip, &change) in vips.iter().filter(|(vip, _)| self.conflicts.is_clear(**vip)) {
                if announced.insert(vip, change) != Some(change) {
                    self.bursts.start(Key { vip, ifindex }, now);
                }
            }
        }
    }

    /// Compares what is wanted with what is there, and starts and stops the difference.
    fn reconcile(&mut self) -> Result<(), Error> {
        let picture = self.voice.picture.borrow_and_update().clone();
        let links = self.links.borrow_and_update().clone();
        let mut wanted = wanted(&picture, &links, self.default_answering);
        let (bursts, interfaces) = (&mut self.bursts, &mut self.interfaces);
        interfaces.retain(|&ifindex, interface| {
            let stays = wanted.get(&ifindex).is_some_and(|wanted| interface.serves(wanted));
            if !stays {
                for &vip in interface.announced.keys() {
                    bursts.stop(&Key { vip, ifindex });
                }
            }
            stays
        });
        while let Some((ifindex, wanted)) = wanted.pop_first() {
            self.provide(ifindex, wanted)?;
        }
        // Before anything is asked, its answers can be heard (RFC 4862 5.4.2).
        self.join_groups();
        let wanted = Input::Wanted { vips: wants(&picture, &links), ours: ours(&picture, &links) };
        let actions = self.conflicts.handle(wanted, boot_now());
        self.act(actions);
        self.follow_standings();
        Ok(())
    }

    /// Brings one interface to what is wanted there.
    fn provide(&mut self, ifindex: u32, wanted: Wanted) -> Result<(), Error> {
        if !self.interfaces.contains_key(&ifindex) {
            match self.open(ifindex, &wanted) {
                Ok(interface) => {
                    self.interfaces.insert(ifindex, interface);
                }
                // Gone since the picture of links was taken; the next one will tell.
                Err(Error::OpenSocket { source, .. }) if is_gone(&source) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.interfaces.get_mut(&ifindex).map_or(Ok(()), |interface| interface.follow(wanted))
    }

    /// Opens the sockets of an interface that has no VIP yet, and starts its tasks.
    fn open(&mut self, ifindex: u32, wanted: &Wanted) -> Result<Interface, Error> {
        let mut interface = Interface {
            name: wanted.name.clone(),
            mac: wanted.mac,
            answering: wanted.answering,
            is_listening: wanted.is_listening,
            vips: BTreeMap::new(),
            announced: BTreeMap::new(),
            probed: BTreeSet::new(),
            socket: Arc::new(PacketSocket::open(ifindex, Kind::Send)?),
            arp_claims: None,
            tasks: Vec::new(),
        };
        if interface.is_listening {
            for kind in [Kind::ArpClaims, Kind::NdpClaims] {
                let claims = Arc::new(PacketSocket::open(ifindex, kind)?);
                if kind == Kind::ArpClaims {
                    interface.arp_claims = Some(claims.clone());
                }
                let listener = Listener {
                    claims,
                    ifindex,
                    interface: interface.name.clone(),
                    voice: self.voice.clone(),
                    heard: self.claims.0.clone(),
                };
                interface.tasks.push(self.tasks.spawn(listener.run()));
            }
        }
        if interface.answering == Answering::Userspace {
            for kind in [Kind::Arp, Kind::Solicitations] {
                let responder = Responder {
                    questions: PacketSocket::open(ifindex, kind)?,
                    answers: interface.socket.clone(),
                    interface: interface.name.clone(),
                    link: LinkIdentity { mac: interface.mac },
                    voice: self.voice.clone(),
                };
                interface.tasks.push(self.tasks.spawn(responder.run()));
            }
        }
        Ok(interface)
    }

    fn join_groups(&mut self) {
        let vips = self.interfaces.iter().flat_map(|(&ifindex, interface)| {
            interface.all_vips().filter_map(move |vip| match vip {
                IpAddr::V6(vip) => Some((ifindex, vip)),
                IpAddr::V4(_) => None,
            })
        });
        let mut failed = BTreeSet::new();
        for error in self.groups.set(vips) {
            failed.insert(error.membership);
            if !self.failed_groups.contains(&error.membership) {
                tracing::warn!(cause = %error.source, "{error}");
            }
        }
        self.failed_groups = failed;
    }
}

/// A task that was stopped is no news; anything else it ends with is.
/// What the end of a task means for the task that owns it.
pub(crate) fn task_ended(ended: Result<Result<(), Error>, JoinError>) -> Result<(), Error> {
    match ended {
        Err(error) if error.is_cancelled() => Ok(()),
        Err(error) => Err(Error::Task(error)),
        Ok(result) => result,
    }
}

/// How soon a round that the deadline holds back is tried again. Short beside the first distances
/// of a burst, and spent only while a round waits.
const FENCED_RECHECK: Duration = Duration::from_millis(10);

/// How soon a group that could not be joined is tried again.
const GROUPS_RETRY: Duration = Duration::from_secs(1);

/// Claims that wait to be looked at.
const CLAIMS: usize = 256;
