//! Edge: asks nodes for their own addresses and hears their answers. Read [`crate::roll_call`]
//! first: it decides.
//!
//! Must never ask while there is nobody to watch: then no socket is open. A question claims nothing
//! (RFC 5227 2.1.1, RFC 4862 5.4.2), so it needs no session.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::announcer::task_ended;
use crate::claim::{Claim, claim};
use crate::clock::boot_now;
use crate::error::Error;
use crate::links::{Link, Links};
use crate::probe;
use crate::roll_call::{Input, Presence, RollCall, Timing};
use crate::socket::{Kind, PacketSocket};
use crate::voice::is_gone;
use crate::wire::MacAddr;

/// What is known of every watched node, by its address.
pub type Presences = Arc<BTreeMap<IpAddr, Presence>>;

/// Says whom to watch and tells what is known. When the last clone is dropped, the task ends.
#[derive(Clone, Debug)]
pub struct RollCallHandle {
    wanted: Arc<watch::Sender<BTreeMap<IpAddr, MacAddr>>>,
    presences: watch::Receiver<Presences>,
}

impl RollCallHandle {
    /// Watches these nodes and no others: the address each is asked for, in a network of ours, and
    /// the MAC it has it at.
    pub fn set(&self, wanted: BTreeMap<IpAddr, MacAddr>) {
        self.wanted.send_if_modified(|before| {
            let is_new = *before != wanted;
            *before = wanted;
            is_new
        });
    }

    /// What is known, told when it changes.
    pub fn presences(&self) -> watch::Receiver<Presences> {
        self.presences.clone()
    }
}

/// Starts the task. It ends with `Ok` when the last handle is dropped, and with an error when
/// packet sockets are not allowed or fail, or the watch over links ends.
pub fn start(
    links: watch::Receiver<Arc<Links>>,
) -> (RollCallHandle, JoinHandle<Result<(), Error>>) {
    let (wanted, asked) = watch::channel(BTreeMap::new());
    let (told, presences) = watch::channel(Presences::default());
    let handle = RollCallHandle { wanted: Arc::new(wanted), presences };
    let caller = RollCaller {
        call: RollCall::new(Timing::default()),
        links,
        asked,
        told,
        open: BTreeMap::new(),
        answers: mpsc::channel(ANSWERS),
        listening: JoinSet::new(),
    };
    (handle, tokio::spawn(caller.run()))
}

/// Answers that wait to be looked at; more are dropped, for the next question brings them again.
const ANSWERS: usize = 64;
/// Room for a frame of the usual MTU; an answer is well under 200 octets.
const BUFFER: usize = 2048;

#[derive(Debug)]
struct RollCaller {
    call: RollCall,
    links: watch::Receiver<Arc<Links>>,
    asked: watch::Receiver<BTreeMap<IpAddr, MacAddr>>,
    told: watch::Sender<Presences>,
    /// By interface index.
    open: BTreeMap<u32, Open>,
    answers: (mpsc::Sender<Claim>, mpsc::Receiver<Claim>),
    listening: JoinSet<Result<(), Error>>,
}

/// An interface on which nodes are asked.
#[derive(Debug)]
struct Open {
    mac: MacAddr,
    addresses: BTreeSet<IpAddr>,
    questions: PacketSocket,
}

impl RollCaller {
    async fn run(mut self) -> Result<(), Error> {
        loop {
            let wait = self.call.next_deadline().map(|due| due.saturating_sub(boot_now()));
            let input = tokio::select! {
                changed = self.asked.changed() => match changed {
                    Ok(()) => {
                        self.reopen()?;
                        Input::Wanted(self.asked.borrow().clone())
                    }
                    Err(_) => return Ok(()),
                },
                changed = self.links.changed() => match changed {
                    Ok(()) => {
                        self.reopen()?;
                        Input::Tick
                    }
                    Err(_) => return Err(Error::LinksEnded),
                },
                Some(claim) = self.answers.1.recv() => Input::Heard(claim),
                Some(ended) = self.listening.join_next() => {
                    task_ended(ended)?;
                    Input::Tick
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => Input::Tick,
            };
            for address in self.call.handle(input, boot_now()) {
                self.ask(address);
            }
            if self.call.take_news() {
                self.told.send_replace(Arc::new(self.call.presences()));
            }
        }
    }

    /// A question that cannot be sent is one without an answer.
    fn ask(&self, address: IpAddr) {
        for open in self.open.values().filter(|open| open.addresses.contains(&address)) {
            if let Err(error) = open.questions.send(&probe::frame(address, open.mac)) {
                tracing::debug!(%address, %error, "cannot ask whether a node is there");
            }
        }
    }

    /// Opens sockets where somebody is to be asked, and closes all others. Answers may come at any
    /// time, so the sockets of an interface stay while its part of the picture does.
    fn reopen(&mut self) -> Result<(), Error> {
        let links = self.links.borrow_and_update().clone();
        let wanted = self.asked.borrow_and_update().clone();
        let wanted: BTreeMap<u32, (MacAddr, BTreeSet<IpAddr>)> =
            links.by_name.values().filter_map(|link| on(link, &wanted)).collect();
        let same = |index: &u32, open: &Open| {
            wanted.get(index).is_some_and(|(mac, all)| (*mac, all) == (open.mac, &open.addresses))
        };
        if self.open.iter().all(|(index, open)| same(index, open))
            && self.open.len() == wanted.len()
        {
            return Ok(());
        }
        self.listening.abort_all();
        self.open.clear();
        for (index, (mac, addresses)) in wanted {
            match self.open(index, mac, addresses) {
                // Gone since the picture of links was taken; the next one will tell.
                Err(Error::OpenSocket { source, .. }) if is_gone(&source) => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn open(&mut self, index: u32, mac: MacAddr, addresses: BTreeSet<IpAddr>) -> Result<(), Error> {
        let (arp, ndp): (Vec<_>, Vec<_>) = addresses.iter().partition(|ip| ip.is_ipv4());
        if !arp.is_empty() {
            let socket = PacketSocket::open(index, Kind::ArpClaims)?;
            socket.hear_claims_of(arp.into_iter().filter_map(|ip| match ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            }))?;
            self.listening.spawn(listen(socket, self.answers.0.clone()));
        }
        if !ndp.is_empty() {
            let socket = PacketSocket::open(index, Kind::NdpClaims)?;
            self.listening.spawn(listen(socket, self.answers.0.clone()));
        }
        let questions = PacketSocket::open(index, Kind::Send)?;
        self.open.insert(index, Open { mac, addresses, questions });
        Ok(())
    }
}

/// What is to be asked on a link, if anything can be.
fn on(
    link: &Link,
    wanted: &BTreeMap<IpAddr, MacAddr>,
) -> Option<(u32, (MacAddr, BTreeSet<IpAddr>))> {
    let is_usable = link.up && link.carrier && !link.is_enslaved && !link.no_arp;
    let mac = link.mac.filter(|_| is_usable)?;
    let in_network = |ip: &&IpAddr| link.addresses.iter().any(|own| own.contains(**ip));
    let addresses: BTreeSet<IpAddr> = wanted.keys().filter(in_network).copied().collect();
    (!addresses.is_empty()).then_some((link.index, (mac, addresses)))
}

/// Until the interface goes, or the task is aborted.
async fn listen(socket: PacketSocket, answers: mpsc::Sender<Claim>) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = match socket.recv(&mut buffer).await {
            Ok(length) => length,
            Err(Error::Receive { source, .. }) if is_gone(&source) => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Some(claim) = claim(buffer.get(..length).unwrap_or_default()) {
            // Full only if somebody floods the link with claims; see ANSWERS.
            let _ = answers.try_send(claim);
        }
    }
}
