//! The flags about the election, and which of them go together (pure).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use herald_leader_election::lease::LeaseTiming;
use herald_leader_election::{Patience, Timing};

use crate::speaker::Election;

/// How speakers elect who holds what.
#[derive(Debug, Args)]
#[command(next_help_heading = "Election")]
pub(super) struct ElectionArgs {
    /// Who decides. Default: raft with --source or --voters, else lease. The same on every node:
    /// with an API server, speakers that elect in another way keep silent until the others have
    /// ended (`herald status`: other_back_end). To change over, set the flag and restart all
    /// speakers; VIPs are silent from when the old ones end until the last of them has.
    #[arg(long, value_enum)]
    election: Option<Backend>,
    /// With raft: exactly these nodes vote (all others take part without a vote), or at most so
    /// many. All nodes named must be up for the first start. Default: chosen and replaced
    /// automatically.
    #[arg(long, value_name = "NUMBER|NAME,..", value_delimiter = ',')]
    voters: Vec<String>,
    /// With raft: what --heartbeat and --ttl are, where they are not given [default: default].
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// With raft: how often a session is renewed [default: 100ms].
    #[arg(long, value_name = "TIME", value_parser = crate::cli::duration)]
    heartbeat: Option<Duration>,
    /// With raft: how long a session lasts without renewal, which is the time after which a dead
    /// node's VIPs move [default: 600ms].
    #[arg(long, value_name = "TIME", value_parser = crate::cli::duration)]
    ttl: Option<Duration>,
    /// With raft: how long a voter may be silent before another node votes in its place, and a node
    /// be gone from the Nodes before it is no member any more; at least ten times --ttl
    /// [default: 5m].
    #[arg(long, value_name = "TIME", value_parser = crate::cli::duration)]
    member_patience: Option<Duration>,
    /// With raft: file with the key that all speakers of the cluster share: hexadecimal, base64 or
    /// any secret text. Their traffic is authenticated and encrypted with it; without it, it is
    /// neither.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// With raft: TCP port on which speakers talk to each other, the same on every node
    /// [default: 7946].
    #[arg(long, value_name = "PORT")]
    raft_port: Option<u16>,
    /// With raft: directory of the log; must survive a restart.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/herald")]
    state_dir: PathBuf,
    /// With Leases: how often a session is renewed in the API server [default: 1500ms].
    #[arg(long, value_name = "TIME", value_parser = crate::cli::duration)]
    lease_renew: Option<Duration>,
    /// With Leases: how long a session lasts without renewal [default: 5s].
    #[arg(long, value_name = "TIME", value_parser = crate::cli::duration)]
    lease_ttl: Option<Duration>,
}

const RAFT_PORT: u16 = 7946;

/// Who decides about claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// The speakers among themselves; needs no API server.
    Raft,
    /// Leases in the API server; needs nothing else.
    Lease,
}

/// Durations that go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// 100 ms and 600 ms.
    Default,
    /// 50 ms and 200 ms: wired networks, nodes that are never busy.
    Fast,
    /// 500 ms and 3 s: Wi-Fi, loaded machines.
    Calm,
}

/// What the flags come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub election: Election,
    pub voters: Vec<String>,
    pub timing: Timing,
    pub patience: Patience,
    pub key_file: Option<PathBuf>,
    pub raft_port: u16,
    pub state_dir: PathBuf,
}

impl ElectionArgs {
    /// Who elects and how; `from_directory` if there is no API server.
    ///
    /// # Errors
    ///
    /// Why the flags do not go together.
    pub(super) fn judge(self, from_directory: bool) -> anyhow::Result<Judged> {
        let backend = self.election.unwrap_or({
            if from_directory || !self.voters.is_empty() { Backend::Raft } else { Backend::Lease }
        });
        let election = match backend {
            Backend::Raft => {
                self.refuse_lease_flags()?;
                Election::Raft
            }
            Backend::Lease => {
                ensure!(
                    !from_directory,
                    "--election lease needs an API server, and --source is none: elect by raft"
                );
                self.refuse_raft_flags()?;
                let usual = LeaseTiming::default();
                let timing = LeaseTiming {
                    renew: self.lease_renew.unwrap_or(usual.renew),
                    ttl: self.lease_ttl.unwrap_or(usual.ttl),
                };
                if let Err(error) = timing.check() {
                    bail!("--lease-renew and --lease-ttl do not go together: {error}");
                }
                Election::Lease(timing)
            }
        };
        let timing = self.timing();
        if let Err(error) = timing.check() {
            bail!("--heartbeat and --ttl do not go together: {error}");
        }
        let patience = self.patience(timing)?;
        Ok(Judged {
            election,
            voters: self.voters,
            timing,
            patience,
            key_file: self.key_file,
            raft_port: self.raft_port.unwrap_or(RAFT_PORT),
            state_dir: self.state_dir,
        })
    }

    /// A voter whose machine only starts again must not be replaced meanwhile.
    fn patience(&self, timing: Timing) -> anyhow::Result<Patience> {
        let Some(asked) = self.member_patience else { return Ok(Patience::default()) };
        let least = timing.ttl * LEAST_PATIENCE_TTLS;
        ensure!(asked >= least, "--member-patience must be at least {least:?}, ten times --ttl");
        Ok(Patience { replace_after: asked, forget_after: asked })
    }

    fn timing(&self) -> Timing {
        let profile = match self.profile.unwrap_or(Profile::Default) {
            Profile::Default => Timing::default(),
            Profile::Fast => Timing::fast(),
            Profile::Calm => Timing::calm(),
        };
        Timing {
            heartbeat: self.heartbeat.unwrap_or(profile.heartbeat),
            ttl: self.ttl.unwrap_or(profile.ttl),
        }
    }

    fn refuse_lease_flags(&self) -> anyhow::Result<()> {
        let given = [
            ("--lease-renew", self.lease_renew.is_some()),
            ("--lease-ttl", self.lease_ttl.is_some()),
        ];
        refuse(given, "is about Leases, but raft decides: see --heartbeat and --ttl")
    }

    fn refuse_raft_flags(&self) -> anyhow::Result<()> {
        refuse(
            [
                ("--voters", !self.voters.is_empty()),
                ("--member-patience", self.member_patience.is_some()),
            ],
            "is about raft, but Leases decide: every node with a speaker takes part",
        )?;
        let given = [
            ("--profile", self.profile.is_some()),
            ("--heartbeat", self.heartbeat.is_some()),
            ("--ttl", self.ttl.is_some()),
        ];
        refuse(given, "is about raft, but Leases decide: see --lease-renew and --lease-ttl")?;
        refuse(
            [("--key-file", self.key_file.is_some()), ("--raft-port", self.raft_port.is_some())],
            "is about raft, but Leases decide: speakers do not talk to each other",
        )
    }
}

/// `--member-patience` is at least so many ttl.
const LEAST_PATIENCE_TTLS: u32 = 10;

fn refuse<const N: usize>(given: [(&str, bool); N], why: &str) -> anyhow::Result<()> {
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => bail!("{flag} {why}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        election: ElectionArgs,
    }

    fn judge(line: &str, from_directory: bool) -> anyhow::Result<Judged> {
        let words = std::iter::once("herald").chain(line.split_whitespace());
        Line::try_parse_from(words)?.election.judge(from_directory)
    }

    fn lease(renew: u64, ttl: u64) -> Election {
        let [renew, ttl] = [renew, ttl].map(Duration::from_millis);
        Election::Lease(LeaseTiming { renew, ttl })
    }

    #[test]
    fn leases_decide_where_there_is_an_api_server_and_nobody_named_voters() {
        for (line, from_directory, wanted) in [
            ("", false, lease(1500, 5000)),
            ("--lease-ttl 3s --lease-renew 800ms", false, lease(800, 3000)),
            ("--voters n1,n2", false, Election::Raft),
            ("--voters n1", true, Election::Raft),
            ("--election raft", false, Election::Raft),
            ("", true, Election::Raft),
            ("--election lease", false, lease(1500, 5000)),
        ] {
            assert_eq!(judge(line, from_directory).unwrap().election, wanted, "{line}");
        }
    }

    #[test]
    fn a_profile_is_the_default_of_heartbeat_and_ttl() {
        for (line, heartbeat, ttl) in [
            ("", 100, 600),
            ("--profile fast", 50, 200),
            ("--profile calm", 500, 3000),
            ("--profile calm --heartbeat 300ms", 300, 3000),
            ("--profile fast --ttl 900ms", 50, 900),
        ] {
            let timing = judge(&format!("--voters n1 {line}"), true).unwrap().timing;
            let wanted = [heartbeat, ttl].map(Duration::from_millis);
            assert_eq!([timing.heartbeat, timing.ttl], wanted, "{line}");
        }
    }

    #[test]
    fn members_are_given_up_after_five_minutes_unless_told_otherwise() {
        for (line, wanted) in [("", 300), ("--member-patience 7s", 7)] {
            let patience = judge(line, true).unwrap().patience;
            let wanted = Duration::from_secs(wanted);
            assert_eq!(patience, Patience { replace_after: wanted, forget_after: wanted });
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_the_reason() {
        for (line, from_directory, reason) in [
            ("--election lease", true, "needs an API server"),
            ("--election lease --voters n1", false, "every node with a speaker takes part"),
            ("--ttl 1s", false, "--ttl is about raft"),
            ("--profile fast", false, "--profile is about raft"),
            ("--key-file k", false, "speakers do not talk"),
            ("--raft-port 7000", false, "--raft-port is about raft"),
            ("--voters n1 --lease-ttl 9s", false, "--lease-ttl is about Leases"),
            ("--lease-ttl 2s", false, "renewal each 1.5s: one that is late"),
            ("--lease-ttl 2s", false, "must be at least 4.5s"),
            ("--lease-renew 100ms", false, "each 100ms is too often: it must be at least 200ms"),
            ("--lease-ttl 10h", false, "36000s is longer than 600s: VIPs of a dead node"),
            (
                "--voters n1 --heartbeat 5ms",
                true,
                "each 5ms is too often: it must be at least 10ms",
            ),
            ("--voters n1 --ttl 2m", true, "120s is longer than 60s"),
            ("--voters n1 --profile calm --ttl 1s", true, "must be at least 2s"),
            ("--member-patience 5s", true, "must be at least 6s, ten times --ttl"),
            ("--member-patience 9s", false, "every node with a speaker takes part"),
        ] {
            let refused = judge(line, from_directory).unwrap_err().to_string();
            assert!(refused.contains(reason), "{line}: {refused}");
        }
    }
}
