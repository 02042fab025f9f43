//! Events: what is worth telling about a Service once, under the reasons that MetalLB's users look
//! for.
//!
//! Level like everything here: an Event is listed as long as its cause lasts, and the writer tells
//! each text once. Cilium writes no Events; Services of its pools get the same ones.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::super::write::{Severity, Target, Write};
use crate::allocator::{Assignment, Change, ChangeReason, Plan, Refusal, RefusalReason};
use crate::desired::{Ineligible, Vip};
use crate::observed::{FamilyPolicy, IpFamily, Observed, PoolKind, Service, ServiceName};

/// What the allocator tells about a Service.
pub(super) fn of_service(
    observed: &Observed,
    plan: &Plan,
    service: &Service,
    change: Option<&Change>,
) -> Vec<Write> {
    let mut teller = Teller { service, events: Vec::new() };
    if let Some(change) = change {
        teller.changed(change);
    }
    let assignment = plan.assignments.get(&service.name);
    let refusal = plan.refusals.get(&service.name);
    if let Some(refusal) = refusal {
        teller.refused(refusal, assignment.is_some());
    }
    if let Some(assignment) = assignment {
        teller.assigned(observed, assignment, refusal.is_some());
    }
    if assignment.is_some() || refusal.is_some() {
        teller.author();
    }
    teller.events
}

struct Teller<'a> {
    service: &'a Service,
    events: Vec<Write>,
}

impl Teller<'_> {
    fn tell(&mut self, severity: Severity, reason: &'static str, message: String) {
        self.events.push(event(self.service, severity, reason, message));
    }

    fn changed(&mut self, change: &Change) {
        let is_lost = matches!(change.reason, ChangeReason::PoolGone | ChangeReason::HeldTwice);
        if change.from.is_some() && (change.to.is_none() || is_lost) {
            self.tell(Severity::Warning, "ClearAssignment", change.to_string());
        }
        if let Some(to) = &change.to {
            let list: Vec<_> = to.addresses.iter().map(ToString::to_string).collect();
            let why = match change.from {
                None => String::new(),
                Some(_) => format!(" ({})", change.reason.label()),
            };
            let message = format!("Assigned IP [{}]{why}", list.join(" "));
            self.tell(Severity::Normal, "IPAllocated", message);
        }
    }

    /// MetalLB tells a live Service whose request is wrong from one that cannot be served.
    fn refused(&mut self, refusal: &Refusal, is_live: bool) {
        let reason = match refusal.reason {
            RefusalReason::RequestContradictory if is_live => "LoadBalancerFailed",
            RefusalReason::NotEnoughClusterIps => "not enough clusterips",
            RefusalReason::ClusterIpsOfOneFamily => "noclusterIPsIPFamily",
            _ => "AllocationFailed",
        };
        let name = &self.service.name;
        let message = match reason {
            "AllocationFailed" => format!("Failed to allocate IP for {name}: {}", refusal.message),
            _ => format!("{name} {}", refusal.message),
        };
        self.tell(Severity::Warning, reason, message);
    }

    fn assigned(&mut self, observed: &Observed, assignment: &Assignment, is_refused: bool) {
        let Some(pool) = observed.pools.get(&assignment.pool) else {
            // While pools may be missing there is a refusal, which says so.
            if !is_refused {
                let message = format!("{assignment}: allocated an IP that has no pool");
                self.tell(Severity::Warning, "InternalError", message);
            }
            return;
        };
        if pool.kind != PoolKind::MetalLb {
            return;
        }
        let of =
            |family| assignment.addresses.iter().filter(move |it| IpFamily::of(**it) == family);
        let families = [IpFamily::V4, IpFamily::V6];
        if families.iter().any(|family| of(*family).count() > 1) {
            let message = format!("{assignment}: more than one address of a family");
            self.tell(Severity::Warning, "nolbIPsIPFamily", message);
        }
        let missing = self.service.ip_families.iter().find(|family| of(**family).count() == 0);
        if let Some(family) = missing
            && self.service.family_policy == FamilyPolicy::PreferDualStack
        {
            let why = if pool.has_family(*family) { "no free" } else { "no" };
            let message = format!(
                "cannot assign additional IP in PreferDualStack: pool {} has {why} {family} address",
                pool.name
            );
            self.tell(Severity::Normal, "AdditionalAssignFailed", message);
        }
    }

    /// What its author should write in another way.
    fn author(&mut self) {
        if !self.service.deprecated.is_empty() {
            let names = self.service.deprecated.join(", ");
            let message = format!("deprecated annotations: {names}; use those of metallb.io");
            self.tell(Severity::Warning, "deprecatedAnnotation", message);
        }
        if !self.service.bad_source_ranges.is_empty() {
            let message = format!(
                "loadBalancerSourceRanges: not a network, and nobody is admitted by it: {}",
                self.service.bad_source_ranges.join(", ")
            );
            self.tell(Severity::Warning, "InvalidSourceRanges", message);
        }
    }
}

/// A foreign machine that uses a VIP, as one speaker has heard it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its MAC.
    pub mac: String,
    /// The interface it was heard on.
    pub interface: String,
    /// What the speaker does about it, by its name in status.
    pub state: &'static str,
}

/// What a speaker tells about foreign users of VIPs.
pub fn conflicts(
    node: &str,
    observed: &Observed,
    vips: &BTreeMap<IpAddr, Arc<Vip>>,
    foreign: &BTreeMap<IpAddr, Foreign>,
) -> Vec<Write> {
    let mut events = Vec::new();
    for (address, Foreign { mac, interface, state }) in foreign {
        let message = format!("{mac} on {interface} of {node} uses {address} too ({state})");
        for service in services(observed, vips.get(address).map(Arc::as_ref)) {
            events.push(event(service, Severity::Warning, "AddressConflict", message.clone()));
        }
    }
    events
}

/// What the allocator tells about VIPs that no node may announce because of what its manifests say.
/// A node that is only silent or leaving just now is no news here.
pub fn unannounced(observed: &Observed, vips: &BTreeMap<IpAddr, Arc<Vip>>) -> Vec<Write> {
    let mut events = Vec::new();
    for (address, vip) in vips.iter().filter(|(_, vip)| vip.eligible.is_empty()) {
        let is_passing =
            |why: &Ineligible| matches!(why, Ineligible::NoSession | Ineligible::Draining);
        let is_fault = |why: &Ineligible| {
            matches!(
                why,
                Ineligible::NoSuchInterface
                    | Ineligible::NoUsableInterface
                    | Ineligible::NotInSubnet
                    | Ineligible::InterfaceExcluded
                    | Ineligible::SharedAddress
            )
        };
        if vip.ineligible.values().any(is_passing) || !vip.ineligible.values().any(is_fault) {
            continue;
        }
        let nodes: Vec<_> =
            vip.ineligible.iter().map(|(node, why)| format!("{node}: {}", why.label())).collect();
        let message = format!("no node can announce {address} ({})", nodes.join(", "));
        for service in services(observed, Some(vip)) {
            events.push(event(service, Severity::Warning, "announceFailed", message.clone()));
        }
    }
    events
}

fn services<'a>(observed: &'a Observed, vip: Option<&'a Vip>) -> impl Iterator<Item = &'a Service> {
    let names = vip.into_iter().flat_map(|vip| &vip.services);
    names.filter_map(|name: &ServiceName| observed.services.get(name).map(Arc::as_ref))
}

fn event(service: &Service, severity: Severity, reason: &'static str, message: String) -> Write {
    let about = Target::service(&service.name);
    Write::Event { about, uid: service.uid.clone(), severity, reason, message }
}
