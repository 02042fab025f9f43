//! What the speakers cost while nothing happens (edge): memory and CPU time as the kernel counts
//! them, requests as the API server's own audit log records them.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::bench::report::field;
use crate::clock;
use crate::cluster::audit::Audit;

/// What one speaker costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Its node.
    pub node: String,
    /// Memory in use.
    pub rss_mib: f64,
    /// The most that ever was in use.
    pub peak_rss_mib: f64,
    /// Of one processor.
    pub cpu_percent: f64,
}

/// What all speakers together ask of the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Requests {
    /// All that ended, watches included.
    pub per_second: f64,
    /// Those that change something.
    pub writes_per_second: f64,
}

/// Watches processes, given with the names of their nodes, for so long.
///
/// # Errors
///
/// If one ends, or there is no audit log.
pub fn watch(processes: &[(String, u32)], time: Duration) -> anyhow::Result<(Vec<Cost>, Requests)> {
    let mut log = Audit::from_now()?;
    let used = |(_, id): &(String, u32)| cpu_ticks(*id);
    let before: Vec<u64> = processes.iter().map(used).collect::<anyhow::Result<_>>()?;
    let begin = clock::now();
    clock::pause(time);
    let seconds = begin.elapsed().as_secs_f64();
    let mut costs = Vec::new();
    for ((node, id), before) in processes.iter().zip(before) {
        let ticks = cpu_ticks(*id)? - before;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        costs.push(Cost {
            node: node.clone(),
            rss_mib: mib(&status, "VmRSS")?,
            peak_rss_mib: mib(&status, "VmHWM")?,
            cpu_percent: 100.0 * precise(ticks) / ticks_per_second() / seconds,
        });
    }
    let counted = log.count()?;
    Ok((
        costs,
        Requests {
            per_second: precise(counted.all) / seconds,
            writes_per_second: precise(counted.writes) / seconds,
        },
    ))
}

/// Waits until the speakers have written nothing for so long.
///
/// # Errors
///
/// If they go on within the limit.
pub fn until_quiet(quiet: Duration, limit: Duration) -> anyhow::Result<()> {
    let mut log = Audit::from_now()?;
    let (begin, mut last) = (clock::now(), clock::now());
    while last.elapsed() < quiet {
        if begin.elapsed() > limit {
            bail!("the speakers still write to the API server after {} s", limit.as_secs());
        }
        clock::pause(Duration::from_millis(200));
        let counted = log.count()?;
        // Sessions are renewed for ever.
        if counted.writes > counted.renewals {
            last = clock::now();
        }
    }
    Ok(())
}

/// Time on a processor so far, in the kernel's ticks (proc_pid_stat(5): utime and stime).
fn cpu_ticks(id: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{id}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    ticks(&stat).with_context(|| format!("cannot understand {path}"))
}

fn ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may contain anything, blanks too.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn ticks_per_second() -> f64 {
    // SAFETY: takes a number.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    precise(u64::try_from(ticks).unwrap_or(100))
}

fn mib(status: &str, name: &str) -> anyhow::Result<f64> {
    let kib = field(status, name).and_then(|text| text.split(' ').next());
    let kib: u64 = kib.with_context(|| format!("no {name}"))?.parse()?;
    Ok(precise(kib) / 1024.0)
}

/// Counts here are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of at most some millions")]
const fn precise(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cpu_time_behind_a_strange_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 4 0 100 1000 50";
        assert_eq!(ticks(stat), Some(12));
    }
}
