//! Every address that any Service ever had, as a watch of the API server told it: whoever looks only
//! at the end does not see an address that was given twice for a moment.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::ensure;

use super::control_plane::ControlPlane;
use crate::clock;
use crate::lab::process::Process;

/// A running watch of the Services in the namespace `default`. It ends with the value.
#[derive(Debug)]
pub struct Assignments {
    watch: Process,
}

impl Assignments {
    /// Starts the watch and waits until it has told what was so before, which belongs to it.
    ///
    /// # Errors
    ///
    /// If kubectl cannot be started, or tells nothing.
    pub fn watch(plane: &ControlPlane) -> anyhow::Result<Self> {
        let columns =
            r#"jsonpath={.metadata.name}{range .status.loadBalancer.ingress[*]} {.ip}{end}{"\n"}"#;
        let arguments = ["get", "services", "-n", "default", "--watch", "-o", columns];
        let watch = plane.kubectl_beside("watch-services", &arguments)?;
        // There is always the API server's own Service.
        clock::await_for("the watch of Services tells something", LIMIT, || {
            Ok(watch.output().contains('\n').then_some(()))
        })?;
        Ok(Self { watch })
    }

    /// How many Services have addresses.
    ///
    /// # Errors
    ///
    /// As [`Self::kept`].
    pub fn given(&self) -> anyhow::Result<usize> {
        Ok(self.kept()?.len())
    }

    /// What each Service that has addresses has had all the time.
    ///
    /// # Errors
    ///
    /// If one has lost or changed them, or had one that another has too; sharing is not known here.
    pub fn kept(&self) -> anyhow::Result<BTreeMap<String, Vec<IpAddr>>> {
        kept(&self.watch.output())
    }
}

/// From lines of a name and its addresses, in the order of time.
fn kept(told: &str) -> anyhow::Result<BTreeMap<String, Vec<IpAddr>>> {
    let mut given: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
    // The last line may still be on its way.
    let whole = told.rfind('\n').map_or("", |end| &told[..end]);
    for line in whole.lines() {
        let mut words = line.split(' ');
        let Some(name) = words.next() else { continue };
        // Anything else is kubectl's own remark.
        let Ok(now) = words.map(str::parse).collect::<Result<Vec<IpAddr>, _>>() else { continue };
        for address in &now {
            let owner = owners.entry(*address).or_insert(name);
            ensure!(*owner == name, "{address} was given to {owner} and to {name}");
        }
        match given.get(name) {
            Some(before) => ensure!(*before == now, "{name} had {before:?} and then {now:?}"),
            None if now.is_empty() => {}
            None => drop(given.insert(name.to_owned(), now)),
        }
    }
    Ok(given)
}

const LIMIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_an_address_that_moves_and_one_that_is_given_twice() {
        let one =
            |name: &str, address: &str| (name.to_owned(), vec![address.parse::<IpAddr>().unwrap()]);
        let good =
            "W1122 of kubectl\nkubernetes\na\nb\na 192.0.2.1\nb 192.0.2.2\na 192.0.2.1\nc 192.0.2";
        let wanted = BTreeMap::from([one("a", "192.0.2.1"), one("b", "192.0.2.2")]);
        assert_eq!(kept(good).unwrap(), wanted, "the last line has no end yet");
        for (bad, why) in [
            ("a 192.0.2.1\na 192.0.2.2\n", "a had [192.0.2.1] and then [192.0.2.2]"),
            ("a 192.0.2.1\na\n", "a had [192.0.2.1] and then []"),
            ("a 192.0.2.1\nb 192.0.2.1\n", "192.0.2.1 was given to a and to b"),
            ("a 192.0.2.1\na 192.0.2.1 192.0.2.2\n", "a had"),
        ] {
            let said = kept(bad).unwrap_err().to_string();
            assert!(said.starts_with(why), "{said}");
        }
    }
}
