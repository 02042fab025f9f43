//! Clocks that lie. The time of day jumps by an hour on living nodes, forwards and back: nothing
//! moves and nobody speaks twice, for nothing but reports goes by it. A boot clock that is not the
//! kernel's own (a time namespace) would make the fence worthless, so there the programs are not
//! used.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use herald_testbed::clock;
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::{host, nodes};
use herald_testbed::resolve::who_has;
use herald_testbed::scenario::{PATIENCE, Scenario, directory, log};
use herald_testbed::trial::Trial;
use herald_testbed::watch::PACE;

/// That nothing moves must not depend on how busy this machine is.
const FLAGS: [&str; 4] = ["--heartbeat", "500ms", "--ttl", "3s"];
/// Longer than the ttl: whoever took the hour for real would be gone by then.
const WATCHED: Duration = Duration::from_secs(5);
/// Longer than a busy machine takes to answer a question.
const SILENCE: Duration = Duration::from_secs(1);
/// In seconds.
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

#[test]
fn the_time_of_day_jumps_by_an_hour_and_nothing_moves() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let voters = nodes().collect::<Vec<_>>().join(",");
        for node in nodes() {
            let mut command =
                scenario.speaker_command(&node, &node, &directory(&node).join("state"));
            command.args(["--voters", &voters]).args(FLAGS);
            under_shim(&mut command, &node)?;
            scenario.start_command(&node, command)?;
        }
        scenario.all_have_sessions()?;
        scenario.put_all_manifests()?;
        let vips: Vec<IpAddr> = scenario.served()?.into_iter().map(|(vip, _)| vip).collect();
        let trial = Trial::begin(scenario, &vips, PACE)?;
        let before = turns(scenario)?;
        // Each node differs from each other one by an hour or two, and each is stepped while it
        // runs.
        for (caller, steps) in [("c1", ["+3600", "-3600", "+0"]), ("r1", ["-3600", "+0", "+3600"])]
        {
            for (node, step) in nodes().zip(steps) {
                set_shim(&node, step)?;
                knows_its_time(scenario, &node, caller, step.parse()?)?;
            }
            clock::pause(WATCHED);
            assert_eq!(turns(scenario)?, before, "VIPs moved because of {steps:?}");
        }
        trial.served(scenario)?;
        let seen = trial.end(scenario, "n1")?;
        seen.no_silence(&vips, SILENCE)
    })
}

/// In a time namespace the speaker's boot clock is an hour ahead of the one the programs compare
/// with, so a deadline that it wrote would let the kernel speak for an hour.
#[test]
fn a_boot_clock_of_its_own_goes_without_xdp_and_says_so() -> anyhow::Result<()> {
    in_lab(|scenario| {
        let speaker = scenario.speaker_command("n1", "n1", &directory("n1").join("state"));
        let mut command = Command::new("unshare");
        // Killed with its parent, or what it starts would live on.
        command.args(["--time", "--boottime", &HOUR.to_string(), "--fork", "--kill-child", "--"]);
        command.arg(speaker.get_program()).args(speaker.get_args());
        command.args(["--voters", "n1,n2,n3"]).args(FLAGS);
        scenario.start_command("n1", command)?;
        for node in ["n2", "n3"] {
            scenario.start(node, &FLAGS)?;
        }
        scenario.all_have_sessions()?;
        scenario.put_all_manifests()?;
        let (vip, _) = scenario.served()?.remove(0);
        let row = scenario.status("n1")?.datapath.pop().context("no interface")?;
        let reason = row.reason.unwrap_or_default();
        assert_eq!(row.mode, "off", "{reason}");
        assert!(reason.contains("time namespace"), "{reason}");
        // It takes part like any other, and falls silent by its own clock.
        let trial = Trial::begin(scenario, &[vip], PACE)?;
        let (is_done, said) = scenario.command("n2", &["move", &vip.to_string(), "n1"])?;
        ensure!(is_done || trial.holder(vip)? == "n1", "{said}");
        let own = host("n1").context("not of the lab")?.mac();
        scenario.wait("n1 answers from userspace", PATIENCE, |scenario| {
            Ok((who_has(&scenario.lab, vip)? == [own]).then_some(()))
        })?;
        trial.end(scenario, "n2").map(drop)
    })
}

/// Who holds what, in which term.
fn turns(scenario: &Scenario) -> anyhow::Result<Vec<(IpAddr, Option<String>, u64)>> {
    let vips = scenario.status("n2")?.vips;
    Ok(vips.into_iter().map(|vip| (vip.address, vip.holder, vip.term)).collect())
}

/// Debian's libfaketime between a program and the C library: what the program takes for the time of
/// day is what a file says, read at each look. Clocks that nobody can set are left alone, as the
/// kernel would.
fn under_shim(command: &mut Command, node: &str) -> anyhow::Result<()> {
    set_shim(node, "+0")?;
    command.env("LD_PRELOAD", shim()?);
    command.env("FAKETIME_TIMESTAMP_FILE", shim_file(node));
    command.envs([("FAKETIME_NO_CACHE", "1"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]);
    Ok(())
}

/// In the directory of whichever architecture this is.
fn shim() -> anyhow::Result<PathBuf> {
    let mut libraries = fs::read_dir("/usr/lib")?.filter_map(Result::ok);
    let found = libraries.find_map(|directory| {
        let library = directory.path().join("faketime/libfaketimeMT.so.1");
        library.is_file().then_some(library)
    });
    found.context("libfaketime is missing: testbed/lib/install.sh --check installs it")
}

fn shim_file(node: &str) -> PathBuf {
    directory(node).join("time-of-day")
}

fn set_shim(node: &str, step: &str) -> anyhow::Result<()> {
    let new = shim_file(node).with_extension("new");
    fs::write(&new, format!("{step}\n"))?;
    Ok(fs::rename(new, shim_file(node))?)
}

/// The shim works: what the speaker logs now bears the time it was made to believe. A caller that
/// speaks rubbish makes it log a line, once for each caller's address.
fn knows_its_time(
    scenario: &mut Scenario,
    node: &str,
    caller: &str,
    step: i64,
) -> anyhow::Result<()> {
    let peers = SocketAddr::new(host(node).context("not of the lab")?.v4().into(), 7946);
    let address = host(caller).context("not of the lab")?.v4();
    scenario.lab.netns(caller)?.inside(|| {
        let mut stream = TcpStream::connect_timeout(&peers, Duration::from_secs(10))?;
        Ok(stream.write_all(&u32::MAX.to_be_bytes())?)
    })?;
    let source = format!("source=\"{address}\"");
    let line = scenario.wait("the rubbish is logged", PATIENCE, |_| {
        let text = fs::read_to_string(log(node))?;
        Ok(text.lines().find(|line| line.contains(&source)).map(str::to_owned))
    })?;
    let real = i64::try_from(clock::wall().as_secs())?;
    let believed = time_of_day(&line).with_context(|| format!("no time in {line}"))?;
    // A day has no beginning here, and a busy machine may log minutes late.
    let ahead = (believed - real + DAY / 2).rem_euclid(DAY) - DAY / 2;
    ensure!((ahead - step).abs() < HOUR / 4, "{node} is {ahead} s ahead, not {step}: {line}");
    Ok(())
}

/// The seconds since midnight of a line like `2026-11-21T15:40:38.123456Z  WARN ...`.
fn time_of_day(line: &str) -> Option<i64> {
    let (_, time) = line.split_once('T')?;
    let mut parts = time.get(..8)?.split(':').map(|part| part.parse::<i64>().ok());
    let mut next = || parts.next().flatten();
    Some(next()? * HOUR + next()? * 60 + next()?)
}
