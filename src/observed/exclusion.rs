//! Interfaces that nothing is announced on: MetalLB's ConfigMap `metallb-excludel2`.
//!
//! MetalLB's manifests bring that ConfigMap along, with patterns for interfaces of container
//! networks. Where there is one, it counts for every interface, named by somebody or not, as in
//! MetalLB. Where there is none, the same patterns keep Herald from choosing such an interface by
//! itself ([`Exclusions::default_patterns`]) and an interface that somebody names is used whatever
//! its name is.

use serde::Serialize;

use super::Pattern;

/// Patterns of interfaces that nothing is announced on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exclusions(pub Vec<Pattern>);

impl Exclusions {
    /// The name of the ConfigMap.
    pub const CONFIG_MAP: &'static str = "metallb-excludel2";
    /// The key in it.
    pub const KEY: &'static str = "excludel2.yaml";

    /// Whether nothing is announced on the interface.
    pub fn exclude(&self, interface: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(interface))
    }

    /// What is excluded where nobody says anything: the list that MetalLB comes with.
    pub fn default_patterns() -> Self {
        let patterns = DEFAULT.iter().filter_map(|text| Pattern::new(text).ok());
        Self(patterns.collect())
    }
}

/// The value of `announcedInterfacesToExclude` in MetalLB's manifests.
const DEFAULT: [&str; 14] = [
    "^docker.*",
    "^cbr.*",
    "^dummy.*",
    "^virbr.*",
    "^lxcbr.*",
    "^veth.*",
    "^lo$",
    "^cali.*",
    "^tunl.*",
    "^flannel.*",
    "^kube-ipvs.*",
    "^cni.*",
    "^nodelocaldns.*",
    "^lxc.*",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_interfaces_of_container_networks_out_and_those_of_machines_in() {
        let exclusions = Exclusions::default_patterns();
        assert_eq!(exclusions.0.len(), DEFAULT.len(), "each of them is a pattern");
        for name in ["docker0", "veth12ab", "lo", "cali1", "cni0", "flannel.1", "kube-ipvs0"] {
            assert!(exclusions.exclude(name), "{name}");
        }
        for name in ["eth0", "enp3s0", "bond0", "br0", "wlan0", "lo1", "eth0.10", "vmbr0"] {
            assert!(!exclusions.exclude(name), "{name}");
        }
        assert!(!Exclusions::default().exclude("veth12ab"), "nobody has excluded anything");
    }
}
