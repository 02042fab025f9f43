//! One run of one event (edge), and what was seen of it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;

use super::event::Event;
use super::product::Product;
use crate::asker::Asker;
use crate::clock;
use crate::lab::addresses::node_of;
use crate::probe::Probe;
use crate::tap::ports::{Heard, PortsTap};

/// How long all is well before the event, and what is measured before is thrown in.
const BEFORE: Duration = Duration::from_millis(300);
/// How long the event lasts before it is undone: longer than any failover here.
pub(super) const LASTS: Duration = Duration::from_secs(3);
/// How often the newcomer asks.
const PACE: Duration = Duration::from_millis(5);

/// What was seen in one run.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The longest time without an answered datagram.
    pub outage: Duration,
    /// Datagrams without an answer.
    pub lost: usize,
    /// The longest time in which the newcomer was not answered.
    pub unanswered: Duration,
    /// Questions about the first VIP that two MACs answered, until the time to settle is over.
    pub double_answers: usize,
    /// Questions asked about it in that time.
    pub requests: usize,
    /// Frames that claimed one of the VIPs out of turn in that time, at whichever port.
    pub out_of_turn: usize,
}

/// Measures once. The order: probes, the event, its end, the time to settle; only what happens
/// between the event and its end counts as outage, second voices count until the last moment.
///
/// # Errors
///
/// What could not be measured.
pub fn once(product: &mut impl Product, event: Event, settle: Duration) -> anyhow::Result<Sample> {
    let holder = product.ready()?;
    let port = product.port(&holder)?;
    let tap = PortsTap::start()?;
    if event == Event::Return {
        product.cause(Event::Cut, &holder)?;
        clock::pause(LASTS);
    }
    let vip = product.vips()[..1].to_vec();
    let asker = Asker::start(product.lab(), &vip, PACE)?;
    let probe = Probe::start(product.lab().netns("c1")?, product.server(), port)?;
    clock::pause(BEFORE);
    match event {
        Event::Return => product.heal(Event::Cut, &holder)?,
        _ => product.cause(event, &holder)?,
    }
    clock::pause(LASTS);
    let (outcome, asked) = (probe.finish()?, asker.finish()?);
    if event != Event::Return {
        product.heal(event, &holder)?;
    }
    let asker = Asker::start(product.lab(), &vip, PACE)?;
    clock::pause(settle);
    let afterwards = asker.finish()?;
    let heard = tap.finish()?;
    let asked = asked.get(&vip[0]).context("nothing was asked")?;
    let later = afterwards.get(&vip[0]).context("nothing was asked after the event")?;
    Ok(Sample {
        outage: outcome.outage(),
        lost: outcome.lost(),
        unanswered: asked.unanswered(),
        double_answers: asked.answered_twice() + later.answered_twice(),
        requests: asked.count() + later.count(),
        out_of_turn: out_of_turn(&heard, product.vips(), &holder),
    })
}

/// Frames out of turn, over all VIPs, as [`crate::tap::turns`] defines it. The order of the turns is
/// taken from the frames, because nobody knows who should hold what with keepalived: the holder,
/// the first other node that spoke, and whoever spoke last. So a node that speaks between the
/// others' frames is counted each time, and one that was given the VIPs back is not.
fn out_of_turn(heard: &Heard, vips: &[IpAddr], holder: &str) -> usize {
    let of = |vip: &IpAddr| {
        let claims = heard.claims.iter().filter(|claim| claim.address == *vip);
        let mut names = claims.filter_map(|claim| node_of(claim.mac));
        let mut order = vec![holder.to_owned()];
        order.extend(names.clone().find(|name| *name != holder).map(str::to_owned));
        order.extend(names.next_back().map(str::to_owned));
        order.dedup();
        let order: Vec<_> = order.into_iter().map(Some).collect();
        heard.second_voices(*vip, &order).len()
    };
    vips.iter().map(of).sum()
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ms without service, {} probes lost; {} ms without an answer; {} of {} questions \
             answered twice, {} frames out of turn",
            self.outage.as_millis(),
            self.lost,
            self.unanswered.as_millis(),
            self.double_answers,
            self.requests,
            self.out_of_turn
        )
    }
}
