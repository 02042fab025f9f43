//! Who elects, and where each node is reached: from `--voters` and the source's Nodes.
//!
//! Pure. A node without an address is one that cannot be reached; it must never be made up.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use herald_leader_election::{NodeName, Voters};

use crate::observed::Observed;

/// The name that speakers with automatic voters greet each other with.
const CLUSTER: &str = "herald";

/// Where each node of the source is reached: at its first address.
pub(crate) fn reachable(observed: &Observed, port: u16) -> BTreeMap<NodeName, SocketAddr> {
    let nodes = observed.nodes.iter();
    nodes
        .filter_map(|(name, node)| {
            let address = node.addresses.first()?;
            Some((NodeName::from(name.clone()), SocketAddr::new(*address, port)))
        })
        .collect()
}

/// What `--voters` says: nothing, a number, or names.
pub(crate) fn voters(asked: &[String]) -> Voters {
    match asked {
        [] => Voters::Automatic,
        [one] if one.parse::<usize>().is_ok() => Voters::AtMost(one.parse().unwrap_or_default()),
        names => Voters::Exactly(names.iter().cloned().map(NodeName::from).collect()),
    }
}

/// What the speakers of one cluster have in common. Those of another one on the same network, if
/// they name their voters, have other voters; otherwise it is the key that tells them apart.
pub(crate) fn cluster(voters: &Voters) -> String {
    match voters {
        Voters::Exactly(names) => names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(","),
        Voters::Automatic | Voters::AtMost(_) => CLUSTER.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Voters {
        voters(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn voters_are_automatic_a_number_or_named() {
        assert_eq!(asked(&[]), Voters::Automatic);
        assert_eq!(asked(&["5"]), Voters::AtMost(5));
        let named = Voters::Exactly([NodeName::from("n1"), NodeName::from("n2")].into());
        assert_eq!(asked(&["n2", "n1"]), named);
        assert_eq!(cluster(&named), "n1,n2");
        assert_eq!(cluster(&Voters::Automatic), cluster(&Voters::AtMost(3)));
    }
}
