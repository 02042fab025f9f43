//! Which XDP program an interface has (edge), whoever attached it and however: asked by rtnetlink,
//! for programs attached without a link are in no list of links. Only looks, never changes
//! anything.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Mode;

/// An XDP program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// The kernel's number for it, as in `bpftool prog show id`.
    pub id: u32,
    /// Its name, if it has one; to ask for it takes CAP_SYS_ADMIN.
    pub name: Option<String>,
    /// How it runs; none if in hardware, or in several ways.
    pub mode: Option<Mode>,
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}, ")?;
        }
        write!(f, "program id {}", self.id)?;
        match self.mode {
            Some(mode) => write!(f, ", {}", mode.label()),
            None => Ok(()),
        }
    }
}

/// The program on an interface, if there is one and the kernel says so.
pub(super) fn of(interface: &str) -> Option<Occupant> {
    let answer = ask(interface)
        .inspect_err(|error| tracing::warn!(interface, %error, "cannot ask for the XDP program"));
    let (id, mode) = read(&answer.ok()?)?;
    Some(Occupant { id, name: name(id), mode })
}

fn name(id: u32) -> Option<String> {
    let programs = aya::programs::loaded_programs().map_while(Result::ok);
    let program = programs.into_iter().find(|program| program.id() == id)?;
    program.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// A request for one link (rtnetlink(7)): `struct nlmsghdr`, then `struct ifinfomsg`.
#[repr(C)]
struct Request {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    padding: u8,
    device: u16,
    index: i32,
    device_flags: u32,
    change: u32,
}

fn ask(interface: &str) -> io::Result<Vec<u8>> {
    let name = CString::new(interface)?;
    // SAFETY: a terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let request = Request {
        length: size_of::<Request>() as u32,
        kind: libc::RTM_GETLINK,
        flags: libc::NLM_F_REQUEST as u16,
        sequence: 1,
        port: 0,
        family: 0,
        padding: 0,
        device: 0,
        index: index as i32,
        device_flags: 0,
        change: 0,
    };
    // SAFETY: takes three numbers.
    let socket = unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
    };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut answer = vec![0_u8; 32 << 10];
    // SAFETY: the request is read and the answer written within their own sizes; the kernel answers
    // one link before `send` returns, so that nothing is waited for.
    let length = unsafe {
        let sent =
            libc::send(socket.as_raw_fd(), (&raw const request).cast(), size_of::<Request>(), 0);
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let room = answer.len();
        libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), room, libc::MSG_DONTWAIT)
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    answer.truncate(length);
    Ok(answer)
}

/// linux/if_link.h.
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_PROG_IDS: std::ops::RangeInclusive<u16> = 5..=7;
const ATTACHED_DRV: u8 = 1;
const ATTACHED_SKB: u8 = 2;
/// Octets before the attributes: `struct nlmsghdr` and `struct ifinfomsg`.
const HEADERS: usize = 32;

/// The program's number and mode in a link's message (pure).
fn read(message: &[u8]) -> Option<(u32, Option<Mode>)> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    if kind != libc::RTM_NEWLINK {
        return None;
    }
    let (_, nested) = attributes(message.get(HEADERS..)?).find(|(kind, _)| *kind == IFLA_XDP)?;
    let mut id = None;
    let mut mode = None;
    for (kind, value) in attributes(nested) {
        match kind {
            IFLA_XDP_ATTACHED => {
                mode = match *value.first()? {
                    ATTACHED_DRV => Some(Mode::Native),
                    ATTACHED_SKB => Some(Mode::Generic),
                    _ => None,
                };
            }
            // The latter where there are several: any of them is in the way.
            IFLA_XDP_PROG_ID => id = Some(value),
            _ if IFLA_XDP_PROG_IDS.contains(&kind) => id = id.or(Some(value)),
            _ => {}
        }
    }
    let id = u32::from_ne_bytes(id?.try_into().ok()?);
    (id != 0).then_some((id, mode))
}

/// The attributes of a message (`struct rtattr`), each padded to four octets.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        // The highest bits say that a value is nested, or in network order.
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = (4 + value.len()) as u16;
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(xdp: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADERS];
        bytes[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
        // A name before it, of a length that needs padding.
        bytes.extend(attribute(3, b"eth0\0"));
        bytes.extend(attribute(IFLA_XDP | 0x8000, xdp));
        bytes
    }

    #[test]
    fn reads_the_program_of_a_link() {
        let native = [attribute(IFLA_XDP_ATTACHED, &[1]), attribute(4, &77_u32.to_ne_bytes())];
        let generic = [attribute(IFLA_XDP_ATTACHED, &[2]), attribute(4, &78_u32.to_ne_bytes())];
        let none = attribute(IFLA_XDP_ATTACHED, &[0]);
        let both = [attribute(IFLA_XDP_ATTACHED, &[4]), attribute(7, &79_u32.to_ne_bytes())];
        assert_eq!(read(&message(&native.concat())), Some((77, Some(Mode::Native))));
        assert_eq!(read(&message(&generic.concat())), Some((78, Some(Mode::Generic))));
        assert_eq!(read(&message(&none)), None);
        assert_eq!(read(&message(&both.concat())), Some((79, None)));
    }

    #[test]
    fn a_message_cut_short_says_nothing() {
        let whole = message(&attribute(4, &77_u32.to_ne_bytes()));
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None, "{length} octets");
        }
    }

    #[test]
    fn loopback_has_none() {
        let answer = ask("lo").unwrap();
        assert_eq!(read(&answer), None);
        assert!(ask("no-such-interface").is_err());
    }
}
