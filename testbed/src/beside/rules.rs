//! Rules of nftables that are on nodes for reasons of their own (edge): what a CNI makes of a
//! NetworkPolicy, and a filter that drops what conntrack does not understand.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::lab::netns::Netns;

/// Loads rules into a namespace, as `nft -f` does.
///
/// # Errors
///
/// What `nft` says.
pub fn load(netns: &Netns, rules: &str) -> anyhow::Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    run(netns, &mut command, rules).map(drop)
}

/// All rules of a namespace, those of the iptables that is built on nftables included.
///
/// # Errors
///
/// What `nft` says.
pub fn list(netns: &Netns) -> anyhow::Result<String> {
    let mut command = Command::new("nft");
    command.args(["list", "ruleset"]).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    run(netns, &mut command, "")
}

/// Drops what conntrack calls invalid, first of all: replies without the request they answer, for
/// one. Counts what it drops in `invalid`.
pub const NOTHING_INVALID: &str = "
table inet strict {
  counter invalid {}
  chain forward {
    type filter hook forward priority filter - 10;
    ct state invalid counter name invalid drop
  }
}
";

/// What CNIs do with what pods say to the world: it leaves under the node's address, or nobody
/// would know the way back.
pub const CNI_MASQUERADE: &str = "
table inet cni {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade
    ip6 saddr fd00:244::/32 ip6 daddr != fd00:244::/32 masquerade
  }
}
";

/// What a NetworkPolicy becomes: the pods' port takes new connections and datagrams from these
/// addresses only. Replaces the policy that was there.
pub fn policy(allowed: &[IpAddr]) -> String {
    let set = |is_v4: bool| {
        let of_family = allowed.iter().filter(|ip| ip.is_ipv4() == is_v4);
        of_family.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    format!(
        "
table inet netpol
delete table inet netpol
table inet netpol {{
  counter refused {{}}
  chain forward {{
    type filter hook forward priority filter;
    ct state established,related accept
    ip daddr 10.244.0.0/16 ip saddr {{ {} }} accept
    ip6 daddr fd00:244::/32 ip6 saddr {{ {} }} accept
    ip daddr 10.244.0.0/16 th dport 8080 counter name refused drop
    ip6 daddr fd00:244::/32 th dport 8080 counter name refused drop
  }}
}}
",
        set(true),
        set(false)
    )
}

/// No policy any more, for [`load`].
pub const NO_POLICY: &str = "table inet netpol\ndelete table inet netpol\n";

/// How many packets a named counter of a table in `inet` has seen.
///
/// # Errors
///
/// If there is none.
pub fn counted(netns: &Netns, table: &str, counter: &str) -> anyhow::Result<u64> {
    let mut command = Command::new("nft");
    command.args(["list", "counter", "inet", table, counter]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let said = run(netns, &mut command, "")?;
    let mut words = said.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    let packets = words.next().and_then(|word| word.parse().ok());
    packets.with_context(|| format!("no counter: {said}"))
}

fn run(netns: &Netns, command: &mut Command, input: &str) -> anyhow::Result<String> {
    netns.inside(|| {
        let mut child = command.spawn().context("cannot run nft: is nftables installed?")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).context("cannot write to nft")?;
        }
        let output = child.wait_with_output().context("cannot wait for nft")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "nft refused: {}\nin:\n{input}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    })
}
