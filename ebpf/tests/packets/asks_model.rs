//! What Services ask for, and what becomes of a request then, written apart from the program: who
//! may ask at all, and the answer where there is no pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::build::{icmp, seal_ipv4};
use crate::{OURS, VIP4, VIP6, ip};

/// What the Services ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asks {
    #[default]
    Nothing,
    /// That only clients of [`SOURCES`] are served.
    Sources,
    /// That a client learns at once that there is no pod.
    Reject,
}

/// Who may ask, as the picture has it; [`may_ask`] says the same.
pub const SOURCES: [(&str, u8); 2] = [("192.168.1.96", 28), ("fd00:2::", 64)];

/// Whether a client is in [`SOURCES`]. One of IPv4 is as well under the name that IPv6 has for it.
pub fn may_ask(client: &[u8]) -> bool {
    let v4 = client.strip_prefix(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255]).unwrap_or(client);
    match v4 {
        [a, b, c, d] => [*a, *b, *c, d & 0xf0] == [192, 168, 1, 96],
        v6 => v6[..8] == [0xfd, 0, 0, 2, 0, 0, 0, 0],
    }
}

/// The answer of a Service without a pod: ICMP port unreachable (RFC 792, RFC 4443 3.1) that quotes
/// eight octets of the transport header.
///
/// To a request for a VIP whose IP and transport headers begin there. `None` for what is
/// passed instead: behind tags, options or extension headers, too short to be quoted, or from
/// nobody who could be answered.
pub fn answer(frame: &[u8], l3: usize, l4: usize) -> Option<Vec<u8>> {
    let sender: [u8; 6] = frame[6..12].try_into().ok()?;
    let quote = frame.get(14..l4 + 8).filter(|_| l3 == 14 && sender[0] & 1 == 0)?;
    match l4 {
        34 => {
            let client = Ipv4Addr::from(<[u8; 4]>::try_from(&frame[26..30]).ok()?);
            let is_nobody = client.is_loopback()
                || client.is_multicast()
                || client.is_broadcast()
                || client.is_unspecified();
            let body = [&[3, 3, 0, 0, 0, 0, 0, 0], quote].concat();
            let vip = IpAddr::from(VIP4);
            let mut answer = icmp((sender, OURS), vip, client.into(), 64, body);
            // Without an identification: nobody fragments it.
            answer[18..20].fill(0);
            seal_ipv4(&mut answer);
            (!is_nobody).then_some(answer)
        }
        54 => {
            let client = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[22..38]).ok()?);
            let body = [&[1, 4, 0, 0, 0, 0, 0, 0], quote].concat();
            let answer = icmp((sender, OURS), ip(VIP6), client.into(), 64, body);
            (!client.is_multicast() && !client.is_unspecified()).then_some(answer)
        }
        _ => None,
    }
}
