//! What the benchmark's packet source sends: the one value that both sides of it share. No part
//! of the product.

/// Octets of every frame the source writes: the longest headers, IPv6 and TCP, and a little more.
pub const FRAME: usize = 80;

/// Frames that are sent before the receiving side gets its turn: a veth's ring holds 256.
pub const BATCH: u64 = 64;

/// Where the client stands in the frame.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An IPv4 request: the client is the source.
    RequestV4 = 0,
    /// An IPv6 request.
    RequestV6 = 1,
    /// An IPv4 reply: the client is the destination.
    ReplyV4 = 2,
}

/// The value of the map `BENCH_LOAD`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The frame, with zeros for the client's port, the last word of its address and both
    /// checksums; the TCP flags are ACK.
    pub template: [u64; FRAME / 8],
    /// One's complement sum of the IPv4 header.
    pub l3_sum: u32,
    /// One's complement sum of the TCP header and its pseudo header.
    pub l4_sum: u32,
    /// [`Shape`].
    pub shape: u32,
    /// Flows to choose from at random; 0: each packet is a SYN of the next flow, all different.
    pub flows: u32,
    /// Sources of a SYN flood that every second packet belongs to; 0: none.
    pub flood: u32,
    /// Which entry of the program array is called.
    pub program: u32,
}

/// The client of a flow as the last word of its address and its port, in host order: sixteen
/// flows a client.
#[inline(always)]
pub const fn client(flow: u32) -> (u32, u16) {
    (FIRST_CLIENT + (flow >> 4), 32_768 + (flow & 15) as u16 * 7)
}

/// 10.64.0.0, the first client; a flood comes from [`FLOOD`] on.
pub const FIRST_CLIENT: u32 = 0x0a40_0000;

/// The number of the first flow of a flood: 11.64.0.0.
pub const FLOOD: u32 = 1 << 28;

#[cfg(feature = "user")]
// SAFETY: `repr(C)` of integers without padding: any bytes are valid.
unsafe impl aya::Pod for Load {}

const _: () = assert!(size_of::<Load>() == FRAME + 6 * 4);
