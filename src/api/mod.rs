//! The Kubernetes types that are not built into Kubernetes, as their own projects define them.
//!
//! These types mirror what others wrote down, field by field, and mean nothing by themselves:
//! `source::convert` turns them into the typed values of `observed`. Nothing but that and the
//! generator of the CRD manifests may use them.

pub mod cilium;
pub mod metallb;
pub mod selector;

pub use cilium::{CiliumL2AnnouncementPolicySpec, CiliumLoadBalancerIPPoolSpec};
pub use metallb::{IPAddressPool, IPAddressPoolSpec, L2Advertisement, L2AdvertisementSpec};
pub use selector::{Condition, LabelSelector, LabelSelectorRequirement};
