//! The demo: Herald's main job on real packets, told in plain words as it happens, every value
//! measured here and now. It succeeds only if everything it was meant to show was seen.
//!
//! The parts, in order: `service` (addresses, voices, requests, bulk data), `failover`.

mod failover;
mod report;
mod service;

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;

pub use self::report::{Failover, Report, Requests};

use crate::clock;
use crate::scenario::Scenario;

/// Tells the story and keeps count of what did not hold.
pub(crate) struct Teller {
    begin: Instant,
    failures: Vec<String>,
}

/// What every part works on.
pub(crate) struct Stage {
    pub scenario: Scenario,
    pub teller: Teller,
    pub report: Report,
    /// The Service's VIPs, IPv4 first.
    pub vips: Vec<IpAddr>,
}

/// Runs the demo in the calling thread's private namespaces and writes the measured values.
///
/// # Errors
///
/// If something could not even be tried.
pub fn run(mut output: File) -> anyhow::Result<ExitCode> {
    let teller = Teller { begin: clock::now(), failures: Vec::new() };
    teller.say("building a LAN of network namespaces: a bridge, three nodes with two pods each,");
    teller.say("client c1 on the LAN, a router, client c2 behind it");
    let scenario = Scenario::build().context("cannot build the lab")?;
    let report = Report::default();
    let mut stage = Stage { scenario, teller, report, vips: Vec::new() };
    if let Err(error) = service::show(&mut stage).and_then(|()| failover::show(&mut stage)) {
        stage.teller.expect(false, &format!("{error:#}"));
    }
    let mut json = serde_json::to_string_pretty(&stage.report)?;
    json.push('\n');
    output.write_all(json.as_bytes()).context("cannot hand over the measured values")?;
    Ok(stage.close())
}

impl Stage {
    fn close(self) -> ExitCode {
        let failures = &self.teller.failures;
        if failures.is_empty() {
            self.teller.say("all of it held");
            return ExitCode::SUCCESS;
        }
        println!("\n{}", self.scenario.logs());
        println!("The demo FAILED. What did not hold:");
        for failure in failures {
            println!("  - {failure}");
        }
        ExitCode::FAILURE
    }
}

impl Teller {
    /// One line, with the seconds since the beginning.
    pub fn say(&self, line: &str) {
        println!("{:6.1} s  {line}", (clock::now() - self.begin).as_secs_f32());
    }

    /// One line that must be true.
    pub fn expect(&mut self, holds: bool, line: &str) {
        if holds {
            self.say(&format!("ok: {line}"));
        } else {
            self.say(&format!("NOT SO: {line}"));
            self.failures.push(line.to_owned());
        }
    }
}
