//! What the allocator says: who has which addresses, who has to wait and why, and what changed.
//!
//! Plain data with words for people; no decision is made here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize, Serializer};

use crate::observed::{IpFamily, ServiceName};

/// The addresses of a Service. By MetalLB's rules they are all from one pool and at most one of
/// each family; by Cilium's there may be any number, from any of its pools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The pool the addresses come from; the first one's, where there are several.
    pub pool: String,
    /// The VIPs, in the Service's order of families.
    pub addresses: Vec<IpAddr>,
}

impl Assignment {
    /// Whether it has an address of the family.
    pub fn has_family(&self, family: IpFamily) -> bool {
        self.addresses.iter().any(|address| IpFamily::of(*address) == family)
    }
}

impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from pool {}", list(&self.addresses), self.pool)
    }
}

/// What should be assigned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Every Service that has addresses.
    pub assignments: BTreeMap<ServiceName, Assignment>,
    /// Every Service that does not have what it wants. A live Service that asks for something new
    /// which is impossible is in both maps: it keeps what it has.
    pub refusals: BTreeMap<ServiceName, Refusal>,
    /// How the assignments differ from those before, in order of names.
    pub changes: Vec<Change>,
    /// Services that Herald has given addresses to and does not serve any more.
    pub released: BTreeSet<ServiceName>,
}

/// Why a Service does not have what it wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The named reason.
    pub reason: RefusalReason,
    /// The reason in words, with names and addresses.
    pub message: String,
}

impl Refusal {
    pub(super) fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    pub(super) fn input_incomplete(missing: &str, addresses: &[IpAddr]) -> Self {
        let message = format!(
            "keeps {} though its {missing} is unknown: there is none yet, or what defines it is \
             invalid",
            list(addresses)
        );
        Self::new(RefusalReason::InputIncomplete, message)
    }
}

/// Named reasons of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalReason {
    /// There is no pool at all.
    NoPool,
    /// There are pools, but none that assigns by itself.
    NoAutomaticPool,
    /// No pool that assigns by itself has addresses of the family.
    NoPoolOfFamily,
    /// No single pool that assigns by itself has both families.
    NoDualStackPool,
    /// Every pool that would do is used up.
    PoolsExhausted,
    /// The requested address is in no pool.
    AddressOutsidePools,
    /// The requested addresses are in different pools.
    AddressesInDifferentPools,
    /// The requested address is one that its pool leaves out.
    AddressAvoided,
    /// The requested address belongs to another Service.
    AddressTaken,
    /// The requested address belongs to another Service that shares, but not with this one.
    AddressNotShared,
    /// The requested addresses do not fit the Service's families.
    RequestedWrongFamily,
    /// The Service's requests contradict each other, or cannot be read.
    RequestContradictory,
    /// The requested pool does not exist.
    UnknownPool,
    /// The pool selects other Services or namespaces.
    PoolNotForService,
    /// The pool is disabled, or in conflict with another.
    PoolClosed,
    /// The Service requires both families and has an address of only one within the cluster.
    NotEnoughClusterIps,
    /// The Service's addresses within the cluster are two of one family.
    ClusterIpsOfOneFamily,
    /// Its pool, or the Service itself, may be in an invalid manifest; what it has is kept.
    InputIncomplete,
}

impl RefusalReason {
    /// Every reason there is.
    pub const ALL: &'static [Self] = &[
        Self::NoPool,
        Self::NoAutomaticPool,
        Self::NoPoolOfFamily,
        Self::NoDualStackPool,
        Self::PoolsExhausted,
        Self::AddressOutsidePools,
        Self::AddressesInDifferentPools,
        Self::AddressAvoided,
        Self::AddressTaken,
        Self::AddressNotShared,
        Self::RequestedWrongFamily,
        Self::RequestContradictory,
        Self::UnknownPool,
        Self::PoolNotForService,
        Self::PoolClosed,
        Self::NotEnoughClusterIps,
        Self::ClusterIpsOfOneFamily,
        Self::InputIncomplete,
    ];

    /// The fixed name in metrics, logs and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoPool => "no_pool",
            Self::NoAutomaticPool => "no_automatic_pool",
            Self::NoPoolOfFamily => "no_pool_of_family",
            Self::NoDualStackPool => "no_dual_stack_pool",
            Self::PoolsExhausted => "pools_exhausted",
            Self::AddressOutsidePools => "address_outside_pools",
            Self::AddressesInDifferentPools => "addresses_in_different_pools",
            Self::AddressAvoided => "address_avoided",
            Self::AddressTaken => "address_taken",
            Self::AddressNotShared => "address_not_shared",
            Self::RequestedWrongFamily => "requested_wrong_family",
            Self::RequestContradictory => "request_contradictory",
            Self::UnknownPool => "unknown_pool",
            Self::PoolNotForService => "pool_not_for_service",
            Self::PoolClosed => "pool_closed",
            Self::NotEnoughClusterIps => "not_enough_cluster_ips",
            Self::ClusterIpsOfOneFamily => "cluster_ips_of_one_family",
            Self::InputIncomplete => "input_incomplete",
        }
    }
}

/// One Service's assignment has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The Service.
    pub service: ServiceName,
    /// What it had.
    pub from: Option<Assignment>,
    /// What it has.
    pub to: Option<Assignment>,
    /// Why.
    pub reason: ChangeReason,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.service)?;
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{from} became {to}")?,
            (None, Some(to)) => write!(f, "{to} assigned")?,
            (Some(from), None) => write!(f, "{from} released")?,
            (None, None) => f.write_str("nothing changed")?,
        }
        write!(f, ", because {}", self.reason.words())
    }
}

/// Named reasons of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeReason {
    /// The Service wants addresses and had none.
    Pending,
    /// The Service does not exist any more.
    ServiceGone,
    /// The Service is no load balancer any more, or one of another class.
    NotServed,
    /// No pool holds the address any more.
    PoolGone,
    /// The address is now in a pool of another name.
    PoolRenamed,
    /// The Service asks for certain addresses.
    Requested,
    /// The Service's address families are others.
    Families,
    /// Two Services had the same address.
    HeldTwice,
}

impl ChangeReason {
    /// Every reason there is.
    pub const ALL: &'static [Self] = &[
        Self::Pending,
        Self::ServiceGone,
        Self::NotServed,
        Self::PoolGone,
        Self::PoolRenamed,
        Self::Requested,
        Self::Families,
        Self::HeldTwice,
    ];

    /// The fixed name in metrics, logs and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::ServiceGone => "service_gone",
            Self::NotServed => "not_served",
            Self::PoolGone => "pool_gone",
            Self::PoolRenamed => "pool_renamed",
            Self::Requested => "requested",
            Self::Families => "families",
            Self::HeldTwice => "held_twice",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Pending => "the Service had no address",
            Self::ServiceGone => "the Service is gone",
            Self::NotServed => "the Service is no load balancer of ours any more",
            Self::PoolGone => "no pool holds the address any more",
            Self::PoolRenamed => "the address is in a pool of another name now",
            Self::Requested => "the Service asks for certain addresses",
            Self::Families => "the Service's address families changed",
            Self::HeldTwice => "two Services had the same address",
        }
    }
}

impl Serialize for RefusalReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

impl Serialize for ChangeReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

/// Addresses as people read them.
pub(super) fn list(addresses: &[IpAddr]) -> String {
    let words: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    words.join(", ")
}
