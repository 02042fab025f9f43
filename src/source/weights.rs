//! Weights of nodes that an author has spoilt: the last good one stays (pure).
//!
//! A node of an API server takes part whatever its annotation says: nobody else would deliver to
//! its pods. So the annotation alone is what has a last good state here, other than in a file,
//! which is rejected as a whole.

use std::collections::BTreeMap;

use crate::observed::Node;

/// Remembers the weights of nodes.
#[derive(Debug, Default)]
pub struct Weights(BTreeMap<String, u32>);

impl Weights {
    /// Gives nodes whose weight cannot be read the one they had before.
    pub fn keep(&mut self, nodes: &mut BTreeMap<String, Node>) {
        let before = std::mem::take(&mut self.0);
        for (name, node) in nodes {
            if node.bad_weight.is_some() {
                node.weight = before.get(name).copied();
            }
            self.0.extend(node.weight.map(|weight| (name.clone(), weight)));
        }
    }
}
