//! The runs of one event (edge), and what was seen of each.
//!
//! Second voices are listened for until the time to settle after an event's end is over. Runs that
//! follow each other share that time, so that it is waited for once: the tap and the asker go on
//! from the first run's begin until the last run has settled, and what they heard counts for the
//! run that was under way. A voice that comes late is counted all the same, at worst for a later
//! run of the same row. This needs a product that is as before soon after an event, without being
//! started anew ([`Name::recovers_from`](super::product::Name::recovers_from)); else each run
//! settles alone.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::event::Event;
use super::product::Product;
use crate::asker::{Asked, Asker};
use crate::clock;
use crate::lab::addresses::node_of;
use crate::probe::{Outcome, Probe};
use crate::tap::ports::{Heard, PortsTap};

/// How long all is well before the event, and what is measured before is thrown in.
pub(super) const BEFORE: Duration = Duration::from_millis(300);
/// Between the end of an event and the next run that shares its time to settle: longer than any
/// burst of announcements.
pub(super) const REST: Duration = Duration::from_secs(3);
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
    /// From the event until other nodes had claimed all VIPs; none if one was claimed by none.
    pub claimed: Option<Duration>,
    /// Questions about the first VIP that two MACs answered, until the time to settle is over.
    pub double_answers: usize,
    /// Questions asked about it in that time.
    pub requests: usize,
    /// Frames that claimed one of the VIPs out of turn in that time, at whichever port.
    pub out_of_turn: usize,
}

/// What is known of a run before it is known who was heard.
struct Run {
    holder: String,
    begun: Moment,
    /// The newcomer's questions count from here.
    asked: Moment,
    caused: Moment,
    ended: Moment,
    outcome: Outcome,
}

/// On the clock of the questions and on that of the frames.
#[derive(Clone, Copy)]
struct Moment {
    clock: Instant,
    wall: Duration,
}

/// Whoever listens during several runs.
struct Watch {
    tap: PortsTap,
    asker: Asker,
}

/// Measures so many runs; `tell` hears of each at once what the client saw.
///
/// # Errors
///
/// What could not be measured.
pub fn runs(
    product: &mut impl Product,
    event: Event,
    count: u16,
    settle: Duration,
    mut tell: impl FnMut(u16, &Outcome),
) -> anyhow::Result<Vec<Sample>> {
    let together = if product.name().recovers_from(event) { count } else { 1 };
    let mut samples = Vec::new();
    let mut done = 0;
    while done < count {
        let mut tell_next = |run, outcome: &Outcome| tell(done + run, outcome);
        let next = together.min(count - done);
        samples.extend(
            settled_together(product, event, next, settle, &mut tell_next)
                .with_context(|| format!("in the runs from {} on", done + 1))?,
        );
        done += next;
    }
    Ok(samples)
}

fn settled_together(
    product: &mut impl Product,
    event: Event,
    count: u16,
    settle: Duration,
    tell: &mut impl FnMut(u16, &Outcome),
) -> anyhow::Result<Vec<Sample>> {
    let mut holder = product.ready()?;
    let watch = Watch::start(product)?;
    let mut runs = Vec::new();
    for run in 1..=count {
        if run > 1 {
            clock::pause(REST.min(settle));
            holder = product.ready()?;
        }
        let seen = once(product, event, &holder)?;
        tell(run, &seen.outcome);
        runs.push(seen);
    }
    clock::pause(settle);
    let begun = watch.asker.begun();
    let (heard, asked) = watch.finish(product.vips()[0])?;
    let ends = runs.iter().skip(1).map(|run| Some(run.begun)).chain([None]);
    let sample =
        |(run, end): (&Run, Option<Moment>)| run.sample(product.vips(), &heard, &asked, begun, end);
    Ok(runs.iter().zip(ends).map(sample).collect())
}

/// The order: a probe, the event, its end. Only what happens between the event and its end counts
/// as outage.
fn once(product: &mut impl Product, event: Event, holder: &str) -> anyhow::Result<Run> {
    let port = product.port(holder)?;
    let begun = Moment::now();
    if event == Event::Return {
        product.cause(Event::Cut, holder)?;
        clock::pause(product.name().lasts());
    }
    let asked = Moment::now();
    let probe = Probe::start(product.lab().netns("c1")?, product.server(), port)?;
    clock::pause(BEFORE);
    let caused = Moment::now();
    match event {
        Event::Return => product.heal(Event::Cut, holder)?,
        _ => product.cause(event, holder)?,
    }
    clock::pause(product.name().lasts());
    let ended = Moment::now();
    let outcome = probe.finish()?;
    if event != Event::Return {
        product.heal(event, holder)?;
    }
    Ok(Run { holder: holder.to_owned(), begun, asked, caused, ended, outcome })
}

impl Run {
    /// `begun` is when the asker began, `end` when the next run did.
    fn sample(
        &self,
        vips: &[IpAddr],
        heard: &Heard,
        asked: &Asked,
        begun: Instant,
        end: Option<Moment>,
    ) -> Sample {
        let since = |moment: Moment| moment.clock.saturating_duration_since(begun);
        let meanwhile = asked.between(since(self.asked), since(self.ended));
        let until_end = asked.between(since(self.begun), end.map_or(Duration::MAX, since));
        let then = self.begun.wall..end.map_or(Duration::MAX, |end| end.wall);
        let claims = heard.claims.iter().filter(|claim| then.contains(&claim.at)).cloned();
        let heard = Heard { claims: claims.collect() };
        Sample {
            outage: self.outcome.outage(),
            lost: self.outcome.lost(),
            unanswered: meanwhile.unanswered(),
            claimed: self.claimed(vips, &heard),
            double_answers: until_end.answered_twice(),
            requests: until_end.count(),
            out_of_turn: out_of_turn(&heard, vips, &self.holder),
        }
    }

    /// When the last of the VIPs was claimed by another node for the first time.
    fn claimed(&self, vips: &[IpAddr], heard: &Heard) -> Option<Duration> {
        let then = self.caused.wall..self.ended.wall;
        let claimed = |vip: &IpAddr| {
            let mut claims = heard.claims.iter().filter(|claim| claim.address == *vip);
            let first = claims.find(|claim| {
                let node = node_of(claim.mac);
                then.contains(&claim.at) && node.is_some_and(|node| node != self.holder)
            });
            first.map(|claim| claim.at - self.caused.wall)
        };
        let all: Option<Vec<Duration>> = vips.iter().map(claimed).collect();
        all?.into_iter().max()
    }
}

impl Moment {
    fn now() -> Self {
        Self { clock: clock::now(), wall: clock::wall() }
    }
}

impl Watch {
    fn start(product: &impl Product) -> anyhow::Result<Self> {
        let tap = PortsTap::start()?;
        let asker = Asker::start(product.lab(), &product.vips()[..1], PACE)?;
        Ok(Self { tap, asker })
    }

    fn finish(self, vip: IpAddr) -> anyhow::Result<(Heard, Asked)> {
        let mut asked = self.asker.finish()?;
        let asked = asked.remove(&vip).context("nothing was asked")?;
        Ok((self.tap.finish()?, asked))
    }
}

/// Frames out of turn, over all VIPs, as [`crate::tap::turns`] defines it. The order of the turns
/// is taken from the frames, because nobody knows who should hold what with keepalived: the holder,
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

#[cfg(test)]
mod tests {
    use herald_announcer::MacAddr;

    use super::*;
    use crate::lab::addresses::host;
    use crate::services::vip;
    use crate::tap::Kind;
    use crate::tap::ports::Claim;

    /// A frame that claims the VIP of an index, so many milliseconds after the first run began.
    fn claim(at: u64, node: &'static str, index: u16) -> Claim {
        let mac = host(node).map_or(MacAddr::ZERO, |host| host.mac());
        let at = Duration::from_secs(1000) + Duration::from_millis(at);
        Claim { at, port: node, address: vip(index), mac, kind: Kind::Announcement }
    }

    fn moment(at: u64) -> Moment {
        let at = Duration::from_millis(at);
        Moment { clock: clock::now() + at, wall: Duration::from_secs(1000) + at }
    }

    /// From 0 to 1000 ms, the event after 300 ms.
    fn run(holder: &str) -> Run {
        let [begun, caused, ended] = [0, 300, 900].map(moment);
        let holder = holder.to_owned();
        Run { holder, begun, asked: begun, caused, ended, outcome: Outcome::default() }
    }

    #[test]
    fn all_vips_are_claimed_when_the_last_one_is() {
        let vips = [vip(0), vip(1)];
        let claimed = |claims: &[Claim]| run("n1").claimed(&vips, &Heard { claims: claims.into() });
        let first = [claim(290, "n2", 0), claim(310, "n1", 0), claim(500, "n2", 0)];
        assert_eq!(claimed(&first), None, "nobody has claimed the second");
        let both = [&first[..], &[claim(640, "n3", 1), claim(700, "n2", 1)]].concat();
        assert_eq!(claimed(&both), Some(Duration::from_millis(340)));
    }

    #[test]
    fn what_is_heard_counts_for_the_run_that_was_under_way() {
        let claims = vec![
            claim(100, "n1", 0),
            claim(500, "n2", 0),
            // A second voice, in the time before the next run.
            claim(950, "n1", 0),
            claim(960, "n2", 0),
            claim(1100, "n2", 0),
        ];
        let (asked, heard) = (Asked::default(), Heard { claims });
        let begun = clock::now();
        let of = |run: &Run, end| run.sample(&[vip(0)], &heard, &asked, begun, end).out_of_turn;
        assert_eq!(of(&run("n1"), Some(moment(1000))), 1);
        let next = Run { begun: moment(1000), ..run("n2") };
        assert_eq!(of(&next, None), 0);
    }
}
