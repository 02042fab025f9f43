//! Which nodes without a living speaker still deliver to their pods (pure).
//!
//! A speaker that crashed, hangs or said goodbye left its programs in the kernel; a node without
//! power or cable did not. Such nodes are asked for their own addresses on the link, and their pods
//! stay in the tables until they do not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use herald_announcer::{MacAddr, Presence};
use herald_leader_election::{NodeName, SessionState};

use super::Knowledge;
use crate::facts::Facts;

/// Nodes without an open session, each with the address to ask it for and the MAC it has that at;
/// `None` where it has none in a network of ours. One of the `assigned` addresses is not its own,
/// also if it is bound there (kube-proxy in IPVS mode does that): another node answers for it.
pub(super) fn silent(
    known: &Knowledge<'_>,
    facts: &BTreeMap<NodeName, Facts>,
    assigned: &BTreeSet<IpAddr>,
) -> BTreeMap<NodeName, Option<(IpAddr, MacAddr)>> {
    let sessions = known.view.sessions.values();
    let silent =
        sessions.filter(|session| session.state != SessionState::Open && session.node != *known.me);
    let ours = facts.get(known.me);
    let asked = |node: &NodeName| {
        let theirs = facts.get(node).into_iter().flat_map(|facts| &facts.interfaces);
        let addresses = theirs.flat_map(|interface| {
            let mac = interface.mac().map(MacAddr);
            interface.addresses.iter().filter_map(move |network| Some((network.ip(), mac?)))
        });
        let is_near = |ip: IpAddr| {
            let mut ours = ours.into_iter().flat_map(|facts| &facts.interfaces);
            let is_ours = ours.any(|interface| interface.is_in_network_of(ip));
            is_ours
                && !assigned.contains(&ip)
                && !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
        };
        addresses.filter(|(ip, _)| is_near(*ip)).min()
    };
    silent.map(|session| (session.node.clone(), asked(&session.node))).collect()
}

/// Those of them that do not answer. One that cannot be asked counts as gone, unless its speaker
/// said goodbye.
pub(super) fn gone(
    known: &Knowledge<'_>,
    silent: &BTreeMap<NodeName, Option<(IpAddr, MacAddr)>>,
) -> BTreeSet<NodeName> {
    let is_gone = |node: &NodeName, asked: &Option<(IpAddr, MacAddr)>| match asked {
        Some((address, _)) => known.presences.get(address) == Some(&Presence::Gone),
        None => known.view.sessions[node].state == SessionState::Revoked,
    };
    let gone = silent.iter().filter(|(node, asked)| is_gone(node, asked));
    gone.map(|(node, _)| node.clone()).collect()
}
