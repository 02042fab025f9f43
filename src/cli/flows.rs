//! `herald flows`: asks the speaker on this node for its flow samples and prints them.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use crate::cli::{Output, control};
use crate::speaker::socket::Ask;
use crate::status;

/// Show which clients reach which Services through this node, and what becomes of their packets.
///
/// The speaker's programs sample one packet of many (`herald speaker --flow-samples`); this shows
/// the last 256 samples of this node, and what all of them add up to by VIP, port, verdict and the
/// node whose pod got the packets. A row's PACKETS are an estimate: how many packets its samples
/// stand for. Exact counts by verdict are in `herald status --output json`, under counters.
///
/// A verdict is the named reason of the programs: forwarded (sent to the pod's node), delivered (to
/// a pod here), delivered_from_peer (the same, sent here by a holder), rejected_no_backend,
/// drop_source_not_allowed and the like.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  herald flows
  herald flows --follow                          # a line a sample, until Ctrl-C
  herald flows --follow --output json | jq -c 'select(.service == \"default/web\")'
  kubectl exec -n herald-system ds/herald -- herald flows

Replies are not sampled: they leave from the pod's node straight to the client.")]
pub struct FlowsArgs {
    /// Directory of the speaker's socket, as given to `herald speaker`.
    #[arg(long, value_name = "DIR", default_value = "/run/herald", env = "HERALD_RUN_DIR")]
    run_dir: PathBuf,
    /// Go on with new samples, each on a line of its own.
    #[arg(long, short)]
    follow: bool,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// How often new samples are asked for.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs the command.
///
/// # Errors
///
/// If no speaker answers at the socket within 5 seconds, or nobody reads what is printed.
pub fn run(args: &FlowsArgs, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let ask = |after| -> anyhow::Result<(String, Value)> {
        let answer = control::ask(&args.run_dir, &Ask::Flows { after })?;
        let value = serde_json::from_str(&answer)
            .context("the speaker's answer is not one of this version")?;
        Ok((answer, value))
    };
    if !args.follow {
        let (answer, value) = ask(0)?;
        match args.output {
            Output::Json => writeln!(out, "{}", answer.trim_end())?,
            Output::Table => write!(out, "{}", status::table(&value))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut after = 0;
    loop {
        let (_, value) = ask(after)?;
        after = print(&value, args.output, after, out)?;
        pause();
    }
}

/// Prints the samples of an answer, a line each; returns the number of the last one.
fn print(answer: &Value, output: Output, after: u64, out: &mut impl Write) -> std::io::Result<u64> {
    let mut last = after;
    for flow in status::samples(answer) {
        match output {
            Output::Json => writeln!(out, "{flow}")?,
            Output::Table => writeln!(out, "{}", status::line(flow))?,
        }
        last = flow["number"].as_u64().unwrap_or(last);
    }
    out.flush()?;
    Ok(last)
}

#[expect(clippy::disallowed_methods, reason = "edge: a command that waits for news")]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Output, print};

    #[test]
    fn a_line_a_sample_and_none_twice() {
        let flow = |number| {
            json!({"number": number, "time": "2026-11-21T19:20:00.125Z", "protocol": "UDP",
                "client": "192.168.1.100:40001", "vip": "192.168.1.240:53", "service": null,
                "verdict": "forwarded", "node": "n2", "pod": null, "length": 74, "packets": 1})
        };
        let printed = |answer, output, after| {
            let mut out = Vec::new();
            let last = print(&answer, output, after, &mut out).unwrap();
            (String::from_utf8(out).unwrap(), last)
        };
        let line = "2026-11-21T19:20:00.125Z  UDP  192.168.1.100:40001 -> 192.168.1.240:53  forwarded  n2  1\n";
        let two = json!({"recent": [flow(8), flow(9)]});
        assert_eq!(printed(two.clone(), Output::Table, 7), (line.repeat(2), 9));
        assert_eq!(printed(two, Output::Json, 7).0.lines().count(), 2);
        assert_eq!(printed(json!({"recent": []}), Output::Table, 9), (String::new(), 9));
        // The speaker began anew, and with it its numbers.
        assert_eq!(printed(json!({"recent": [flow(1)]}), Output::Table, 9).1, 1);
    }
}
