//! What happens without any failure (edge): how soon a new Service is announced and answered for,
//! and what a speaker costs that has a thousand VIPs and nothing to do.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::row::{Aim, Spread};
use crate::asker::Asker;
use crate::bench::report;
use crate::clock;
use crate::lab::addresses::nodes;
use crate::scenario::{self, MANIFESTS, Scenario};
use crate::services::{POOL, manifests, vip, vip6};
use crate::tap::Kind;
use crate::tap::ports::PortsTap;

/// How many VIPs the idle speaker has.
const MANY: u16 = 1000;
/// For how long it is watched.
const IDLE: Duration = Duration::from_secs(10);
/// What announces and probes after all VIPs have a holder is waited for.
const QUIET: Duration = Duration::from_secs(10);
/// How long a new Service is waited for.
const LASTS: Duration = Duration::from_secs(2);

/// The values. The field names are fixed.
#[derive(Debug, Serialize)]
pub struct Steady {
    /// From the manifest's being there to the first announcement on the wire.
    service_announced_ms: Spread,
    /// From the manifest's being there to the first answer, by XDP, to a newcomer's ARP question.
    service_answered_ms: Spread,
    idle_vips: u16,
    /// Of one CPU; of the speaker that took most.
    idle_cpu_percent: f64,
    /// Between one speaker and all others, both directions.
    idle_frames_per_second: f64,
    aims: Vec<Aim>,
}

/// Measures with the default profile.
///
/// # Errors
///
/// What could not be measured.
pub fn measure(scenario: &mut Scenario, runs: u16) -> anyhow::Result<Steady> {
    scenario.put_manifest("pool.yaml", POOL)?;
    scenario.put_manifest(MANIFESTS[2].0, MANIFESTS[2].1)?;
    scenario.put_manifest("services.yaml", "")?;
    scenario.start_all(&[])?;
    let (mut announced, mut answered) = (Vec::new(), Vec::new());
    for run in 0..runs {
        let (first, second) = new_service(scenario, vip(100 + run % 20))
            .with_context(|| format!("a new Service, run {}", run + 1))?;
        println!("new Service: announced after {first:?}, answered after {second:?}");
        announced.push(first);
        answered.push(second);
    }
    let (idle_cpu_percent, idle_frames_per_second) = idle(scenario)?;
    let mut steady = Steady {
        service_announced_ms: Spread::of(announced.into_iter()),
        service_answered_ms: Spread::of(answered.into_iter()),
        idle_vips: MANY,
        idle_cpu_percent,
        idle_frames_per_second,
        aims: Vec::new(),
    };
    steady.aims = vec![
        Aim::of("announced, median, ms", steady.service_announced_ms.median, 50.0),
        Aim::of("first answer by XDP, median, ms", steady.service_answered_ms.median, 100.0),
        Aim::of("CPU when idle, %", steady.idle_cpu_percent, 1.0),
    ];
    Ok(steady)
}

fn new_service(scenario: &Scenario, vip: IpAddr) -> anyhow::Result<(Duration, Duration)> {
    let tap = PortsTap::start()?;
    let asker = Asker::start(&scenario.lab, &[vip], Duration::from_millis(2))?;
    let manifest = manifests("new", &[vip]);
    clock::pause(Duration::from_millis(200));
    let begin = clock::wall();
    scenario.put_manifest("new.yaml", &manifest)?;
    clock::pause(LASTS);
    asker.finish()?;
    let heard = tap.finish()?;
    fs::remove_file(scenario::manifests().join("new.yaml"))?;
    // The address is given back before the next one is wanted.
    clock::pause(LASTS);
    let first = |kind| {
        let mut claims = heard.claims.iter().filter(|c| c.address == vip && c.kind == kind);
        claims.next().map(|claim| claim.at.saturating_sub(begin))
    };
    Ok((
        first(Kind::Announcement).context("never announced")?,
        first(Kind::Answer).context("never answered for")?,
    ))
}

fn idle(scenario: &mut Scenario) -> anyhow::Result<(f64, f64)> {
    let vips: Vec<IpAddr> = (0..MANY).map(vip6).collect();
    println!("giving {MANY} Services their VIPs");
    scenario.put_manifest("many.yaml", &manifests("many", &vips))?;
    scenario.wait("all VIPs have holders", 180, |scenario| {
        let Ok(status) = scenario.status("n1") else { return Ok(None) };
        Ok((status.holders().len() >= vips.len()).then_some(()))
    })?;
    clock::pause(QUIET);
    let (before, frames) = (processor_times(scenario)?, frames()?);
    let begin = clock::now();
    clock::pause(IDLE);
    let (after, more) = (processor_times(scenario)?, self::frames()?);
    let seconds = (clock::now() - begin).as_secs_f64();
    let used = before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before));
    let most = used.max().unwrap_or_default();
    let percent = most.as_secs_f64() * 100.0 / seconds;
    Ok((round(percent), round((more - frames) as f64 / seconds)))
}

/// What each speaker has used of the processors.
fn processor_times(scenario: &mut Scenario) -> anyhow::Result<Vec<Duration>> {
    let time = |node: String| {
        let id = scenario.speaker(&node)?.id();
        let text = fs::read_to_string(format!("/proc/{id}/stat"))?;
        // Behind the name, which may hold anything: state, then fields 4 and on (proc(5)).
        let (_, fields) = text.rsplit_once(')').context("no such line is known")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |index: usize| -> anyhow::Result<u64> {
            Ok(fields.get(index).context("a short line")?.parse()?)
        };
        // utime and stime, fields 14 and 15, in ticks of 10 ms.
        Ok(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
    };
    nodes().map(time).collect()
}

/// Frames that went through the first node's bridge port so far, in both directions.
fn frames() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").context("no net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("port-n1:"));
    let fields: Vec<&str> = line.context("no port-n1")?.split_whitespace().collect();
    let count = |index: usize| -> anyhow::Result<u64> {
        Ok(fields.get(index).context("a short line")?.parse()?)
    };
    Ok(count(1)? + count(9)?)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl Steady {
    /// For people.
    pub fn table(&self) -> String {
        let aims: Vec<report::Row> =
            self.aims.iter().map(|aim| aim.line("herald default")).collect();
        format!(
            "a new Service is announced after {} ms (max {}), answered for after {} ms (max {});\n\
             with {} VIPs an idle speaker takes {} % of a CPU and exchanges {} frames a second\n{}",
            self.service_announced_ms.median,
            self.service_announced_ms.max,
            self.service_answered_ms.median,
            self.service_answered_ms.max,
            self.idle_vips,
            self.idle_cpu_percent,
            self.idle_frames_per_second,
            report::table(&aims),
        )
    }
}
