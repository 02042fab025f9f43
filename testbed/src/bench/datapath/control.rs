//! How long a change takes to be in the maps, and what the maps weigh. What is timed begins with
//! the data plane's wanted state and ends with the last map written (`Datapath::apply`); that the
//! speaker sees an object change and decides on it comes before, and is in
//! [`decided`](super::decided).

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context;
use herald_ebpf::{Picture, Policy};

use super::hot::Loaded;
use super::pictures::{Pods, picture, replace, vip4};
use super::rows::{MB, MS, Program, Row};
use super::{Scope, keep};
use crate::clock;

/// Endpoints of each of many Services.
pub(super) const ENDPOINTS: u32 = 3;
const CHANGES: u32 = 200;
/// The most endpoints a Service can have.
pub(super) const MANY: u32 = 4_096;
/// Any interface: nothing is attached.
pub(super) const IFINDEX: u32 = 1;

/// Measures the cases that are wanted.
///
/// # Errors
///
/// If a map refuses.
pub(super) fn measure(scope: &Scope, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    for services in [100, 1_000, 10_000] {
        sized(scope, services, rows).with_context(|| format!("{services} services"))?;
    }
    for (suffix, is_weighted) in [("", false), ("_weighted", true)] {
        many(scope, suffix, is_weighted, rows).with_context(|| format!("{MANY} endpoints"))?;
    }
    Ok(())
}

/// One Service with as many endpoints as one can have: the time of all of them at once, and of
/// one that is replaced. With weights, every third endpoint gets twice as much as the others.
fn many(scope: &Scope, suffix: &str, is_weighted: bool, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let load = format!("cold_load_{MANY}{suffix}");
    let change = format!("endpoint_change_{MANY}{suffix}");
    if !scope.wants(&load) && !scope.wants(&change) {
        return Ok(());
    }
    let mut wanted = picture(IFINDEX, 1, MANY, Pods::Here);
    if is_weighted {
        let heavy = wanted
            .services
            .values()
            .flat_map(|set| set.iter())
            .step_by(3)
            .map(|it| (it.address, 2));
        let policy = Policy { weights: heavy.collect(), ..Policy::default() };
        wanted.policies =
            wanted.services.keys().map(|port| (*port, policy.clone().into())).collect();
    }
    let (mut loads, mut changes) = (Vec::new(), Vec::new());
    for run in 0..scope.samples() as u32 {
        let mut loaded = Loaded::new(&load)?;
        loads.push(timed(&mut loaded, &wanted)?);
        replace(&mut wanted, vip4(0).into(), run, Pods::Here);
        changes.push(timed(&mut loaded, &wanted)?);
    }
    keep(rows, Row::of(&load, Program::Herald, MS, loads));
    keep(rows, Row::of(&change, Program::Herald, MS, changes));
    Ok(())
}

/// Milliseconds until the maps are as a picture has them; deciding on it is not counted.
fn timed(loaded: &mut Loaded, wanted: &Picture) -> anyhow::Result<f64> {
    let begin = clock::now();
    loaded.datapath.apply(wanted)?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

fn sized(scope: &Scope, services: u32, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let label = match services {
        ..1_000 => services.to_string(),
        _ => format!("{}k", services / 1_000),
    };
    let load = format!("cold_load_{label}");
    let weight = format!("map_memory_{label}");
    let change = format!("endpoint_change_p99_{label}");
    let is_large = services >= 1_000;
    if !scope.wants(&load) && !scope.wants(&weight) && !scope.wants(&change) {
        return Ok(());
    }
    let mut wanted = picture(IFINDEX, services, ENDPOINTS, Pods::Here);
    let mut times = Vec::new();
    let mut last = None;
    for _ in 0..scope.samples() {
        // The one before goes first: two sets of maps would be weighed together.
        drop(last.take());
        let mut loaded = Loaded::new(&load)?;
        times.push(timed(&mut loaded, &wanted)?);
        last = Some(loaded);
    }
    if is_large {
        keep(rows, Row::of(&load, Program::Herald, MS, times));
    }
    keep(rows, Row::of(&weight, Program::Herald, MB, vec![memory()?]));
    let Some(mut loaded) = last.filter(|_| is_large) else { return Ok(()) };
    let runs = nearly_worst(scope, |number| {
        let service = number * 7 % services;
        replace(&mut wanted, vip4(service).into(), number, Pods::Here);
        timed(&mut loaded, &wanted)
    })?;
    keep(rows, Row::of(&change, Program::Herald, MS, runs));
    Ok(())
}

/// Of some runs of many changes, the time that one in a hundred changes takes longer than. Changes
/// are numbered on from run to run.
pub(super) fn nearly_worst(
    scope: &Scope,
    mut change: impl FnMut(u32) -> anyhow::Result<f64>,
) -> anyhow::Result<Vec<f64>> {
    let run = |run: u32| -> anyhow::Result<f64> {
        let numbers = run * CHANGES..(run + 1) * CHANGES;
        let mut times = numbers.map(&mut change).collect::<anyhow::Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() * 99 / 100])
    };
    (0..scope.samples() as u32).map(run).collect()
}

/// What this process's maps weigh, in millions of octets: what the kernel says it has locked for
/// them (`memlock` in a descriptor's `/proc` entry).
///
/// # Errors
///
/// If `/proc` cannot be read.
pub(super) fn memory() -> anyhow::Result<f64> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fdinfo").context("cannot read the descriptors")? {
        // A descriptor of another thread's may be gone by now.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let field = |name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(octets)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, octets);
        }
    }
    Ok(maps.values().sum::<u64>() as f64 / 1e6)
}
