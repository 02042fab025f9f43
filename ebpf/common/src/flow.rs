//! The hash that sends a flow to a slot. The holder and the pod's node must agree, so both sides
//! and the tests call this one.
//!
//! It mixes well on purpose: a multiply-xor hash sent every flow of a client whose ports rise by
//! two to one pod.

use crate::layout::Address;

/// What distinguishes one flow of a service port from another, in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client's address.
    pub client: Address,
    /// The client's port.
    pub client_port_be: u16,
    /// The Service's port.
    pub port_be: u16,
}

impl Flow {
    /// 32 well-mixed bits of the flow.
    #[inline(always)]
    pub const fn hash(self) -> u32 {
        let ports = ((self.client_port_be as u32) << 16) | self.port_be as u32;
        let mut hash = fmix32(ports ^ 0x9e37_79b9);
        hash = fmix32(hash ^ self.client[3]);
        // The mapped prefix of IPv4 is a constant: skipping it keeps IPv4 at two rounds.
        if self.client[2] != crate::layout::V4_MAPPED || self.client[0] | self.client[1] != 0 {
            hash = fmix32(hash ^ self.client[2]);
            hash = fmix32(hash ^ self.client[1]);
            hash = fmix32(hash ^ self.client[0]);
        }
        hash
    }

    /// The same flow as far as a service with client affinity tells flows apart: by the client's
    /// address alone.
    #[inline(always)]
    #[must_use]
    pub const fn of_client(self) -> Self {
        Self { client: self.client, client_port_be: 0, port_be: 0 }
    }
}

/// The finalizer of MurmurHash3 (public domain): every input bit reaches every output bit.
#[inline(always)]
pub const fn fmix32(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

#[cfg(test)]
mod tests {
    use super::Flow;
    use crate::layout::mapped;
    use crate::service::SLOTS;

    #[test]
    fn spreads_ports_that_rise_by_two_over_all_slots() {
        let mut hits = [0u32; SLOTS];
        for i in 0..32_768u16 {
            let port = (32_768 + i % 16_384 * 2).to_be();
            let client = mapped(u32::from_ne_bytes([192, 168, 1, (i / 16_384) as u8]));
            let hash = Flow { client, client_port_be: port, port_be: 80u16.to_be() };
            hits[hash.hash() as usize & (SLOTS - 1)] += 1;
        }
        // 32 expected per slot; a Poisson tail beyond 80 has probability below 1e-12.
        assert!(hits.iter().all(|n| (1..80).contains(n)), "{hits:?}");
    }
}
