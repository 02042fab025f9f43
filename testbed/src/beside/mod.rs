//! What else lives on a node beside Herald: kube-proxy, policies of packet filters, other people's
//! XDP programs, a pod network in tunnels. Everything here is put into the lab's namespaces and
//! goes with them.

pub mod interface;
pub mod overlay;
pub mod proxy;
pub mod rules;
