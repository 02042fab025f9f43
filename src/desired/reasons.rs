//! The named reasons for every "no" about nodes and endpoints (pure).

/// Why a node may not hold a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ineligible {
    /// No L2Advertisement or policy selects the VIP's pool and Services.
    NoAdvertisement,
    /// The VIP's pool cannot be read, or is another load balancer's: it is not from Herald.
    PoolUnknown,
    /// L2Advertisements select the pool, but not this node.
    NotSelected,
    /// The node is labelled out of external load balancing.
    Excluded,
    /// The node is cordoned, and others can have the VIP.
    Cordoned,
    /// The node says that its network is not set up.
    NetworkUnavailable,
    /// The address is shared, and every L2Advertisement for its pool picks out Services: it would
    /// be announced for one that is not meant.
    SharedAddress,
    /// No speaker on the node has a living session.
    NoSession,
    /// The node is giving its VIPs away.
    Draining,
    /// externalTrafficPolicy is Local and no endpoint on the node is ready, or serves its last.
    NoLocalEndpoint,
    /// No endpoint anywhere is ready, or serves its last: MetalLB announces no such Service.
    NoReadyEndpoint,
    /// It is a node's own address: others must not claim it, nor the fence silence the node.
    AddressOfNode,
    /// No interface of the node is named by an L2Advertisement.
    NoSuchInterface,
    /// The interfaces of the node that would do are excluded by `metallb-excludel2`.
    InterfaceExcluded,
    /// The interface of the node that would do is down or has no carrier, or belongs to another.
    NoUsableInterface,
    /// No interface of the node is in a network that contains the VIP.
    NotInSubnet,
}

impl Ineligible {
    /// The name in metrics, logs and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoAdvertisement => "no_advertisement",
            Self::PoolUnknown => "pool_unknown",
            Self::NotSelected => "node_not_selected",
            Self::Excluded => "node_excluded_by_label",
            Self::Cordoned => "node_cordoned",
            Self::NetworkUnavailable => "node_network_unavailable",
            Self::SharedAddress => "shared_ip_with_service_selector",
            Self::NoSession => "no_session",
            Self::Draining => "draining",
            Self::NoLocalEndpoint => "no_local_endpoint",
            Self::NoReadyEndpoint => "no_ready_endpoint",
            Self::AddressOfNode => "address_of_a_node",
            Self::NoSuchInterface => "no_such_interface",
            Self::InterfaceExcluded => "interface_excluded",
            Self::NoUsableInterface => "no_usable_interface",
            Self::NotInSubnet => "not_in_subnet",
        }
    }
}

/// What is unknown about a VIP that is announced all the same, as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncertain {
    /// Its pool cannot be read. What announces every pool, or that one by name, announces it.
    PoolUnknown,
    /// What announced it cannot be read. Any node in a network that contains it may have it.
    AdvertisementUnknown,
}

impl Uncertain {
    /// The name in metrics, logs and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::PoolUnknown => "pool_unknown",
            Self::AdvertisementUnknown => "advertisement_unknown",
        }
    }
}

/// Why an endpoint gets no traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unused {
    /// The endpoint is not ready.
    NotReady,
    /// The endpoint's pod is about to end. It keeps the flows that it has, and gets new ones only
    /// while nobody else is ready.
    Terminating,
    /// The endpoint names no node and its address is of none: the stack carries the port.
    NoNode,
    /// The endpoint's node never had a speaker, or has no living one and does not answer on the
    /// link: nothing delivers to its pods.
    NodeSessionLost,
    /// The endpoint's node has no usable interface.
    NoInterface,
    /// The endpoint's node is reached at an interface without Herald's programs: nothing there
    /// delivers for others, and kube-proxy would hide the client.
    NodeWithoutXdp,
    /// The endpoint's node weighs nothing, and others can be used. It keeps the flows it has.
    NodeWeightZero,
}

impl Unused {
    /// The name in metrics, logs and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotReady => "not_ready",
            Self::Terminating => "terminating",
            Self::NoNode => "no_node",
            Self::NodeSessionLost => "node_session_lost",
            Self::NoInterface => "node_without_interface",
            Self::NodeWithoutXdp => "node_without_xdp",
            Self::NodeWeightZero => "node_weight_zero",
        }
    }

    /// Whether the endpoint is ready, and only the stack (kube-proxy) can get to it: then all of
    /// the port is left to the stack, which gives every endpoint its share.
    pub const fn is_left_to_the_stack(self) -> bool {
        matches!(self, Self::NoNode)
    }
}
