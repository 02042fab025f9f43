//! A LAN of network namespaces (edge), as small as can be and still be a real one:
//!
//! ```text
//!   c2 --- r1 --- br0 --- n1 --- n1-p1, n1-p2      c1, c2  clients, on the LAN and behind r1
//!                 | |  \- n2 --- n2-p1, n2-p2      r1      router
//!                 | \---- n3 --- n3-p1, n3-p2      n1..n3  nodes, pods routed behind them as a
//!                 c1                                       bridge CNI does it
//! ```
//!
//! The bridge is in the calling thread's namespace, which must be private ([`crate::sandbox`]).
//! Everything ends with the value, or with the process. Names and addresses are in [`addresses`].

pub mod addresses;
pub mod backbone;
pub(crate) mod bpf;
pub mod cable;
pub mod confinement;
pub mod fault;
pub mod netns;
pub mod pass;
pub mod process;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use self::addresses::{Host, LAN, NODES, POD_PORT, PODS, pod_name};
use self::bpf::Attached;
use self::netns::Netns;
use self::pass::Pass;
use self::process::Process;

/// The running network, with a server in each pod.
#[derive(Debug)]
pub struct Lab {
    namespaces: BTreeMap<String, Netns>,
    _passes: Vec<Attached>,
    _pods: Vec<Process>,
}

impl Lab {
    /// Builds everything and starts the pods; their logs go to the directory.
    ///
    /// # Errors
    ///
    /// What the kernel or a tool refused.
    pub fn build(logs: &Path) -> anyhow::Result<Self> {
        netns::sysctl(&[("ipv6/conf/default/disable_ipv6", "1")])?;
        netns::ip(
            "link set lo up\n\
             link add br0 type bridge stp_state 0 mcast_snooping 0 forward_delay 0\n\
             link set br0 up\n",
        )?;
        let mut lab = Self { namespaces: BTreeMap::new(), _passes: Vec::new(), _pods: Vec::new() };
        lab.namespace("c2", &[])?;
        let pass = Pass::load()?;
        for host in LAN {
            lab.host(host)?;
            if host.name.starts_with('n') {
                lab._passes.push(pass.attach(&host.port())?);
            }
        }
        lab.clients()?;
        for node in 1..=NODES {
            lab.node(node)?;
            for pod in 1..=PODS {
                lab.pod(node, pod, logs)?;
            }
        }
        Ok(lab)
    }

    /// A namespace by its name.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn netns(&self, name: &str) -> anyhow::Result<&Netns> {
        self.namespaces.get(name).with_context(|| format!("the lab has no {name}"))
    }

    /// Cuts a host off the LAN without its noticing: the bridge drops all its frames in both
    /// directions, the link stays up. So it is with a failed switch behind the next switch.
    ///
    /// # Errors
    ///
    /// If there is no such host.
    pub fn cut(&self, host: &str) -> anyhow::Result<()> {
        port_state(host, "disabled")
    }

    /// Undoes [`Lab::cut`].
    ///
    /// # Errors
    ///
    /// If there is no such host.
    pub fn heal(&self, host: &str) -> anyhow::Result<()> {
        port_state(host, "forwarding")
    }

    /// Pulls a host's cable: its interface loses the carrier.
    ///
    /// # Errors
    ///
    /// If there is no such host.
    pub fn unplug(&self, host: &str) -> anyhow::Result<()> {
        netns::ip(&format!("link set {} down\n", addresses::port(host)))
    }

    /// Undoes [`Lab::unplug`].
    ///
    /// # Errors
    ///
    /// If there is no such host.
    pub fn plug(&self, host: &str) -> anyhow::Result<()> {
        netns::ip(&format!("link set {} up\n", addresses::port(host)))
    }

    fn namespace(&mut self, name: &str, settings: &[(&str, &str)]) -> anyhow::Result<&Netns> {
        let netns = Netns::create(name)?;
        netns.sysctl(SETTINGS)?;
        netns.sysctl(settings)?;
        netns.ip("link set lo up\n")?;
        Ok(self.namespaces.entry(name.to_owned()).or_insert(netns))
    }

    /// A host with its cable into the bridge.
    fn host(&mut self, host: Host) -> anyhow::Result<()> {
        let Host { name, .. } = host;
        let settings = match name.as_bytes()[0] {
            b'n' => NODE_SETTINGS,
            b'r' => FORWARDING,
            _ => &[],
        };
        let netns = self.namespace(name, settings)?.clone();
        cable::lay(host, &netns, cable::MTU)
    }

    /// The router's other side and the client there.
    fn clients(&mut self) -> anyhow::Result<()> {
        self.netns("r1")?.ip(
            "link add eth1 type veth peer name eth0 address 02:00:00:00:09:02 netns c2\n\
             link set eth1 address 02:00:00:00:09:01 up\n\
             addr add 10.9.0.1/24 dev eth1\n\
             addr add fd00:9::1/64 dev eth1 nodad\n",
        )?;
        self.netns("c2")?.ip("link set eth0 up\n\
             addr add 10.9.0.2/24 dev eth0\n\
             addr add fd00:9::2/64 dev eth0 nodad\n\
             route add default via 10.9.0.1\n\
             route add default via fd00:9::1\n")
    }

    /// What a bridge CNI sets up on a node: a bridge for its pods, routes to the other nodes'.
    fn node(&mut self, node: u8) -> anyhow::Result<()> {
        let netns = self.netns(&format!("n{node}"))?;
        netns.ip(&format!(
            "link add cni0 address 02:00:00:02:{node:02}:01 type bridge mcast_snooping 0\n\
             link set cni0 up\n\
             addr add 10.244.{node}.1/24 dev cni0\n\
             addr add fd00:244:{node}::1/64 dev cni0 nodad\n"
        ))?;
        cable::routes_to_pods(netns, node)
    }

    fn pod(&mut self, node: u8, pod: u8, logs: &Path) -> anyhow::Result<()> {
        let (node_name, name) = (format!("n{node}"), pod_name(node, pod));
        let last = pod + 1;
        let netns = self.namespace(&name, &[])?.clone();
        self.netns(&node_name)?.ip(&format!(
            "link add veth-p{pod} type veth peer name eth0 \
             address 02:00:00:02:{node:02}:{last:02} netns {name}\n\
             link set veth-p{pod} master cni0 up\n"
        ))?;
        netns.ip(&format!(
            "link set eth0 up\n\
             addr add 10.244.{node}.{last}/24 dev eth0\n\
             addr add fd00:244:{node}::{last}/64 dev eth0 nodad\n\
             route add default via 10.244.{node}.1\n\
             route add default via fd00:244:{node}::1\n"
        ))?;
        let mut command = Command::new(process::built("herald-lab")?);
        command.args(["pod", "--name", &name, "--node", &node_name]);
        command.args(["--port", &POD_PORT.to_string()]);
        let log = logs.join(format!("{name}.log"));
        self._pods.push(Process::start(&name, command, &netns, &log)?);
        Ok(())
    }
}

/// State "disabled" makes the bridge drop what comes from the port and what would go to it.
fn port_state(host: &str, state: &str) -> anyhow::Result<()> {
    netns::quietly("bridge", &["link", "set", "dev", &addresses::port(host), "state", state])
}

/// Addresses are usable at once, and nobody changes them.
const SETTINGS: &[(&str, &str)] = &[
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/default/addr_gen_mode", "0"),
];

const FORWARDING: &[(&str, &str)] = &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// Strict reverse path filters: replies leave by another way than requests came, and must survive.
const NODE_SETTINGS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
];
