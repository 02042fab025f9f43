//! Every way a packet can leave the programs has a name here, and a counter in the per-CPU array
//! `REASONS` at the index of its number.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)*) => {
        /// Why a program returned the verdict it did.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Reason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name in metrics, logs and status.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

reasons! {
    /// Passed: shorter than the headers it claims.
    Truncated = "pass_truncated",
    /// Passed: neither ARP nor IP.
    OtherProtocol = "pass_other_protocol",
    /// Passed: not for a service port of a VIP.
    NotForVip = "pass_not_for_vip",
    /// Passed: addressed to another machine's MAC (a flooded frame).
    OtherMac = "pass_other_mac",
    /// Passed: a fragment whose first one is not known, or more IPv6 extension headers than are
    /// looked through.
    Fragment = "pass_fragment",
    /// Passed: the service port has no backend that can be reached.
    NoBackend = "pass_no_backend",
    /// Passed: a peer sent it here, but no backend lives here.
    NoLocalBackend = "pass_no_local_backend",
    /// Answered: an ARP request for a held VIP.
    ArpAnswered = "arp_answered",
    /// Passed: an ARP packet that asks for no VIP of ours, or is no valid request.
    ArpPassed = "arp_passed",
    /// Dropped: an ARP request for a VIP whose deadline has passed; nobody may answer it here.
    ArpExpired = "arp_expired",
    /// Answered: a neighbour solicitation for a held VIP.
    NsAnswered = "ns_answered",
    /// Dropped: a neighbour solicitation for a VIP whose deadline has passed.
    NsExpired = "ns_expired",
    /// Passed: a neighbour solicitation that RFC 4861 7.1.1 tells to discard, or that cannot be
    /// answered in place.
    NsPassed = "ns_passed",
    /// Sent to the pod's node.
    Forwarded = "forwarded",
    /// Given to a pod on this node; this node holds the VIP.
    Delivered = "delivered",
    /// Given to a pod on this node; a peer had sent it here.
    DeliveredFromPeer = "delivered_from_peer",
    /// Given to another local pod than the sender chose: the tables differ for a moment.
    DeliveredElsewhere = "delivered_elsewhere",
    /// A reply left with the VIP as its source.
    Restored = "restored",
    /// A reply could not be rewritten and was dropped rather than sent with the pod's address.
    RestoreFailed = "drop_restore_failed",
    /// Dropped on its way out: an ARP frame that speaks for a VIP this node does not hold, or
    /// whose deadline has passed.
    FenceDroppedArp = "fence_dropped_arp",
    /// Dropped on its way out: a neighbour advertisement that does the same.
    FenceDroppedNa = "fence_dropped_na",
    /// Dropped: the client is in none of the Service's loadBalancerSourceRanges.
    SourceRefused = "drop_source_not_allowed",
    /// Refused with an ICMP error: the Service has no ready backend.
    Rejected = "rejected_no_backend",
    /// Passed: the last hop this packet may take is the one to here; the stack says so to the
    /// sender.
    TtlExpired = "pass_ttl_expired",
    /// Answered: an echo request for a held VIP.
    EchoAnswered = "echo_answered",
    /// An ICMP error, sent to the node of the pod whose packet it quotes.
    ErrorForwarded = "icmp_error_forwarded",
    /// An ICMP error, given to the pod here whose packet it quotes.
    ErrorDelivered = "icmp_error_delivered",
    /// Passed: an SCTP packet in pieces whose port would have to change. Its checksum follows only
    /// if the whole packet's length is known.
    SctpPieces = "pass_sctp_pieces",
    /// A reply left with the VIP as its source although its flow's entry had been evicted: only
    /// one VIP has that pod and port.
    RestoredByPort = "restored_by_port",
    /// Dropped on its way out: a neighbour solicitation sent from a VIP this node does not hold,
    /// or whose deadline has passed.
    FenceDroppedNs = "fence_dropped_ns",
    /// Dropped: would have been refused with an ICMP error, of which too many were sent already.
    RejectLimited = "drop_reject_limited",
    /// An ICMP error about a request to a VIP left with the VIP in its quote, not the pod.
    ErrorRestored = "icmp_error_restored",
    /// Passed: there is no room to remember the reply's way back, which would leave with the pod's
    /// address.
    ReverseFull = "pass_reverse_full",
}

/// Entries of the array `REASONS`.
pub const REASONS: u32 = Reason::ALL.len() as u32;
