//! `herald move`, `herald drain`, `herald undrain`: ask the speaker on this node, then follow what
//! happens in its reports until it is done.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use crate::cli::control;
use crate::speaker::socket::{Answer, Ask};

/// Hand a VIP over to another node, without losing a packet.
///
/// The holder falls silent, then the node takes the claim and announces itself; the old holder
/// forwards on what still reaches it. Returns once the node holds the VIP.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  herald move 192.168.1.240 n2
  kubectl exec -n herald-system ds/herald -- herald move 192.168.1.240 n2

Nothing moves it back; the node keeps it until it leaves or somebody moves it again.
Exit code 1, with the reason, if the node may not hold it or does not take it in time.")]
pub struct MoveArgs {
    /// The VIP.
    vip: IpAddr,
    /// The node that is to hold it.
    node: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// Have a node hand over all its VIPs, and give it none until `herald undrain`.
///
/// For work on a node: its speaker runs on, its pods are served on, and nothing is lost. It
/// stays drained when its speaker or the whole node restarts.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  herald drain            # this node
  herald drain n2 && ssh n2 reboot

Exit code 1 if a VIP is left there: no other node may hold it, or none took it in time.")]
pub struct DrainArgs {
    /// The node; without it, this one.
    node: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// Let a drained node hold VIPs again. It takes nothing back by itself.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  herald undrain          # this node
  herald undrain n2")]
pub struct UndrainArgs {
    /// The node; without it, this one.
    node: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
struct Waiting {
    /// How long to wait until it is done.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = super::duration)]
    timeout: Duration,
    /// Directory of the speaker's socket, as given to `herald speaker`.
    #[arg(long, value_name = "DIR", default_value = "/run/herald", env = "HERALD_RUN_DIR")]
    run_dir: PathBuf,
}

/// How often the report is looked at.
const PACE: Duration = Duration::from_millis(20);

/// Runs `herald move`.
///
/// # Errors
///
/// If the speaker refuses, or it is not done in time.
pub fn move_vip(args: &MoveArgs) -> anyhow::Result<ExitCode> {
    let MoveArgs { vip, node, waiting } = args;
    let before = holders(&control::report(&waiting.run_dir)?).remove(vip);
    accepted(&waiting.run_dir, &Ask::Move { vip: *vip, node: node.clone() })?;
    waiting.until(&format!("{node} to take {vip}"), |report| {
        Ok((holders(report).get(vip) == Some(node)).then_some(()))
    })?;
    println!("{vip} moved from {} to {node}", before.as_deref().unwrap_or("nobody"));
    Ok(ExitCode::SUCCESS)
}

/// Runs `herald drain`.
///
/// # Errors
///
/// If the speaker refuses, or a VIP is left on the node.
pub fn drain(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let waiting = &args.waiting;
    let mut before = holders(&control::report(&waiting.run_dir)?);
    let node = accepted(&waiting.run_dir, &Ask::Drain { node: args.node.clone() })?;
    before.retain(|_, holder| *holder == node);
    println!("{node} is drained; {} VIPs to hand over", before.len());
    waiting.until(&format!("{node} to be empty"), |report| {
        let now = holders(report);
        before.retain(|vip, _| match now.get(vip) {
            Some(holder) if *holder == node => true,
            Some(holder) => {
                println!("{vip} is held by {holder}");
                false
            }
            // Deleted meanwhile, or just between two holders.
            None => report_has(report, *vip),
        });
        let is_left =
            |vip: &IpAddr| now.get(vip) == Some(&node) && !others_may(report, *vip, &node);
        if !before.is_empty() && before.keys().all(is_left) {
            let left: Vec<String> = before.keys().map(ToString::to_string).collect();
            bail!("{node} keeps {}: no other node may hold that", left.join(", "));
        }
        let is_known = drained(report).any(|drained| drained == node);
        Ok((before.is_empty() && is_known).then_some(()))
    })?;
    println!("{node} holds nothing");
    Ok(ExitCode::SUCCESS)
}

/// Runs `herald undrain`.
///
/// # Errors
///
/// If the speaker refuses, or it is not done in time.
pub fn undrain(args: &UndrainArgs) -> anyhow::Result<ExitCode> {
    let waiting = &args.waiting;
    let node = accepted(&waiting.run_dir, &Ask::Undrain { node: args.node.clone() })?;
    waiting.until(&format!("{node} to count as usable"), |report| {
        Ok((!drained(report).any(|drained| drained == node)).then_some(()))
    })?;
    println!("{node} may hold VIPs again; it takes none back by itself");
    Ok(ExitCode::SUCCESS)
}

/// Asks, and returns the node it is about.
fn accepted(run_dir: &Path, ask: &Ask) -> anyhow::Result<String> {
    let answer = control::ask(run_dir, ask)?;
    match serde_json::from_str(&answer).context("the speaker's answer cannot be understood")? {
        Answer::Accepted { node } => Ok(node),
        Answer::Refused { reason, message } => bail!("{message} ({reason})"),
    }
}

impl Waiting {
    #[expect(clippy::disallowed_methods, reason = "edge: a command that a person waits for")]
    fn until(
        &self,
        what: &str,
        mut done: impl FnMut(&Value) -> anyhow::Result<Option<()>>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            if done(&control::report(&self.run_dir)?)?.is_some() {
                return Ok(());
            }
            if start.elapsed() > self.timeout {
                let waited = humantime::format_duration(self.timeout);
                bail!("waited {waited} for {what}; see `herald status`");
            }
            thread::sleep(PACE);
        }
    }
}

fn list<'a>(report: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    report[name].as_array().into_iter().flatten()
}

fn drained(report: &Value) -> impl Iterator<Item = &str> {
    list(&report["election"], "drained").filter_map(Value::as_str)
}

fn address(vip: &Value) -> Option<IpAddr> {
    vip["address"].as_str()?.parse().ok()
}

fn holders(report: &Value) -> BTreeMap<IpAddr, String> {
    let holder = |vip: &Value| Some((address(vip)?, vip["holder"].as_str()?.to_owned()));
    list(report, "vips").filter_map(holder).collect()
}

fn report_has(report: &Value, vip: IpAddr) -> bool {
    list(report, "vips").any(|found| address(found) == Some(vip))
}

/// Whether any node but this one could hold the VIP.
fn others_may(report: &Value, vip: IpAddr, node: &str) -> bool {
    let Some(found) = list(report, "vips").find(|found| address(found) == Some(vip)) else {
        return false;
    };
    let may_not: Vec<&str> = list(found, "ineligible")
        .filter_map(|it| it["node"].as_str())
        .chain(drained(report))
        .collect();
    let open = list(&report["election"], "sessions").filter(|it| it["state"] == "open");
    let mut names = open.filter_map(|session| session["node"].as_str());
    names.any(|name| name != node && !may_not.contains(&name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Value {
        json!({
            "election": {
                "drained": ["n1"],
                "sessions": [
                    {"node": "n1", "state": "open"}, {"node": "n2", "state": "open"},
                    {"node": "n3", "state": "revoked"}, {"node": "n4", "state": "open"},
                ],
            },
            "vips": [
                {"address": "192.0.2.1", "holder": "n1", "ineligible": [{"node": "n2"}, {"node": "n4"}]},
                {"address": "192.0.2.2", "holder": "n1", "ineligible": [{"node": "n4"}]},
                {"address": "192.0.2.3", "holder": null, "ineligible": []},
            ],
        })
    }

    #[test]
    fn knows_when_nobody_else_may_hold_a_vip() {
        let may = |last| others_may(&report(), IpAddr::from([192, 0, 2, last]), "n1");
        assert_eq!([1, 2, 3, 4].map(may), [false, true, true, false]);
        let from_elsewhere = |last| others_may(&report(), IpAddr::from([192, 0, 2, last]), "n2");
        assert!(!from_elsewhere(2), "n1 is drained, n3 has no session");
    }

    #[test]
    fn reads_who_holds_what() {
        let held = holders(&report());
        let shown: Vec<String> = held.iter().map(|(vip, node)| format!("{vip} {node}")).collect();
        assert_eq!(shown, ["192.0.2.1 n1", "192.0.2.2 n1"]);
        assert!(report_has(&report(), IpAddr::from([192, 0, 2, 3])));
        assert_eq!(drained(&report()).collect::<Vec<_>>(), ["n1"]);
    }
}
