//! Edge: makes the link match the picture of announced VIPs. Sends the bursts, joins the groups and,
//! where the data plane does not answer, answers.
//!
//! Must never send a frame for a VIP that is not in the picture at that moment, nor once the
//! deadline has passed: both are asked immediately before each frame. The kernel's fence asks
//! again; where there is none (mode `off`), this is all there is. Read [`crate::responder`],
//! [`crate::announcement`] and [`crate::burst`] first: they decide, this file performs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};

use crate::announcement;
use crate::burst::{Bursts, Key};
use crate::clock::boot_now;
use crate::counters::{Counters, Shared};
use crate::error::Error;
use crate::groups::{Groups, Membership};
use crate::links::Links;
use crate::picture::{Announced, Answering, Picture, Wanted, wanted};
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
    responders: JoinSet<Result<(), Error>>,
}

/// Sets the picture and reads the counters. When the last clone is dropped, the announcer falls
/// silent and its task ends.
#[derive(Clone, Debug)]
pub struct AnnouncerHandle {
    picture: Arc<watch::Sender<Picture>>,
    counters: Shared,
}

impl AnnouncerHandle {
    /// Replaces the picture. No frame leaves for a removed VIP once this has returned, but for one
    /// that is being handed to the kernel at this very moment. A VIP that is new on an interface is
    /// announced; one that stays is left alone.
    pub fn set(&self, announced: Arc<Announced>) {
        self.picture.send_modify(|picture| picture.replace(announced));
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
    /// With the number of the change that brought each, see [`Picture::gained`].
    vips: BTreeMap<IpAddr, u64>,
    socket: Arc<PacketSocket>,
    responders: Vec<AbortHandle>,
}

impl Interface {
    /// Whether the open sockets still serve what is wanted; a difference in VIPs does not matter.
    fn serves(&self, wanted: &Wanted) -> bool {
        (&self.name, self.mac, self.answering) == (&wanted.name, wanted.mac, wanted.answering)
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        for responder in &self.responders {
            responder.abort();
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
        let (sender, picture) = watch::channel(Picture::default());
        let counters = Shared::default();
        let handle = AnnouncerHandle { picture: Arc::new(sender), counters: counters.clone() };
        let announcer = Self {
            links,
            default_answering: answering,
            voice: Voice { picture, deadline, counters },
            bursts: Bursts::default(),
            groups: Groups::default(),
            failed_groups: BTreeSet::new(),
            interfaces: BTreeMap::new(),
            responders: JoinSet::new(),
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
                Some(ended) = self.responders.join_next() => responder_ended(ended)?,
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
            if !self.failed_groups.is_empty() {
                self.join_groups();
            }
            self.announce();
        }
    }

    /// How long nothing has to be done, unless something changes.
    fn wait(&self) -> Option<Duration> {
        let round = self.bursts.next_deadline().map(|due| {
            let fenced = if self.voice.may_speak() { Duration::ZERO } else { FENCED_RECHECK };
            due.saturating_sub(boot_now()).max(fenced)
        });
        let groups = (!self.failed_groups.is_empty()).then_some(GROUPS_RETRY);
        round.into_iter().chain(groups).min()
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
                    self.voice.send(&interface.socket, &frame, |c| c.announcements += 1);
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
            let kept = wanted.get(&ifindex).filter(|wanted| interface.serves(wanted));
            let gone = |vip: &IpAddr| !kept.is_some_and(|kept| kept.vips.contains_key(vip));
            for &vip in interface.vips.keys().filter(|vip| gone(vip)) {
                bursts.stop(&Key { vip, ifindex });
            }
            kept.is_some()
        });
        while let Some((ifindex, wanted)) = wanted.pop_first() {
            self.provide(ifindex, wanted)?;
        }
        self.join_groups();
        Ok(())
    }

    /// Brings one interface to what is wanted there.
    fn provide(&mut self, ifindex: u32, wanted: Wanted) -> Result<(), Error> {
        let now = boot_now();
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
        if let Some(interface) = self.interfaces.get_mut(&ifindex) {
            for (&vip, change) in &wanted.vips {
                if interface.vips.get(&vip) != Some(change) {
                    self.bursts.start(Key { vip, ifindex }, now);
                }
            }
            interface.vips = wanted.vips;
        }
        Ok(())
    }

    /// Opens the sockets of an interface that has no VIP yet, and starts its responders.
    fn open(&mut self, ifindex: u32, wanted: &Wanted) -> Result<Interface, Error> {
        let mut interface = Interface {
            name: wanted.name.clone(),
            mac: wanted.mac,
            answering: wanted.answering,
            vips: BTreeMap::new(),
            socket: Arc::new(PacketSocket::open(ifindex, Kind::Send)?),
            responders: Vec::new(),
        };
        if interface.answering == Answering::Userspace {
            for kind in [Kind::Arp, Kind::Solicitations] {
                let responder = Responder {
                    questions: PacketSocket::open(ifindex, kind)?,
                    answers: interface.socket.clone(),
                    interface: interface.name.clone(),
                    link: LinkIdentity { mac: interface.mac },
                    voice: self.voice.clone(),
                };
                interface.responders.push(self.responders.spawn(responder.run()));
            }
        }
        Ok(interface)
    }

    fn join_groups(&mut self) {
        let vips = self.interfaces.iter().flat_map(|(&ifindex, interface)| {
            interface.vips.keys().filter_map(move |vip| match vip {
                IpAddr::V6(vip) => Some((ifindex, *vip)),
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

/// A responder that was stopped is no news; anything else it ends with is.
fn responder_ended(ended: Result<Result<(), Error>, JoinError>) -> Result<(), Error> {
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
