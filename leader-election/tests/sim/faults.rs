//! What befalls the nodes: processes that end and stall, disks and power that are lost, nodes that
//! the source drops, links that are cut.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use herald_leader_election::NodeName;
use herald_leader_election::raft::core::Input;
use herald_leader_election::raft::store::Image;

use super::{Event, Kernel, MS, Wall, World};

impl World {
    /// Ends the process; the kernel speaks on.
    pub fn kill(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.core = None;
        node.view = None;
        node.pending.clear();
        node.process += 1;
    }

    /// Ends the process and empties its state directory; the kernel speaks on.
    pub fn lose_disk(&mut self, node: usize) {
        self.kill(node);
        self.nodes[node].disk = Image::default();
    }

    /// Changes which nodes the source lists; every running node is told.
    pub fn list(&mut self, listed: BTreeSet<NodeName>) {
        self.listed = listed;
        self.listed_throughout = false;
        let unused = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let nodes: BTreeMap<NodeName, SocketAddr> =
            self.listed.iter().map(|node| (node.clone(), unused)).collect();
        for node in 0..self.nodes.len() {
            self.input(node, Input::Nodes(nodes.clone()));
        }
    }

    /// Ends process and kernel for good.
    pub fn cut_power(&mut self, node: usize) {
        self.kill(node);
        self.nodes[node].kernel = Kernel::default();
    }

    pub fn start(&mut self, node: usize, after: Wall) {
        self.after(after, Event::Start(node));
    }

    /// Ends process and kernel, and the clock starts anew.
    pub fn reboot(&mut self, node: usize, after: Wall) {
        self.kill(node);
        let now = self.now;
        let boot_offset = self.rng.range(1, 1000) * MS;
        let rebooted = &mut self.nodes[node];
        rebooted.kernel = Kernel::default();
        (rebooted.booted, rebooted.boot_offset) = (now, boot_offset);
        self.start(node, after);
    }

    /// Stops the process for a time, as SIGSTOP does.
    pub fn freeze(&mut self, node: usize, time: Wall) {
        let until = self.now + time;
        self.nodes[node].busy_until = self.nodes[node].busy_until.max(until);
    }

    pub fn isolate(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            self.cut.extend([(node, other), (other, node)]);
        }
    }
}
