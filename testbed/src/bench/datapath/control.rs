//! How long a change takes to be in the maps, and what the maps weigh.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context;

use super::hot::Loaded;
use super::pictures::{Pods, picture, replace, vip4};
use super::rows::{MB, MS, Program, Row};
use super::{Scope, keep};
use crate::clock;

const ENDPOINTS: u32 = 3;
const CHANGES: u32 = 200;
/// Any interface: nothing is attached.
const IFINDEX: u32 = 1;

/// Measures the cases that are wanted.
///
/// # Errors
///
/// If a map refuses.
pub(super) fn measure(scope: &Scope, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    for services in [100, 1_000, 10_000] {
        sized(scope, services, rows).with_context(|| format!("{services} services"))?;
    }
    Ok(())
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
        let begin = clock::now();
        loaded.datapath.apply(&wanted)?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        last = Some(loaded);
    }
    if is_large {
        keep(rows, Row::of(&load, Program::Herald, MS, times));
    }
    keep(rows, Row::of(&weight, Program::Herald, MB, vec![memory()?]));
    let Some(mut loaded) = last.filter(|_| is_large) else { return Ok(()) };
    let mut runs = Vec::new();
    for run in 0..scope.samples() as u32 {
        let mut times = Vec::new();
        for number in 0..CHANGES {
            let service = (run * CHANGES + number) * 7 % services;
            replace(&mut wanted, vip4(service).into(), run * CHANGES + number, Pods::Here);
            let begin = clock::now();
            loaded.datapath.apply(&wanted)?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        runs.push(times[times.len() * 99 / 100]);
    }
    keep(rows, Row::of(&change, Program::Herald, MS, runs));
    Ok(())
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
