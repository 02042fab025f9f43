//! The server in each pod: says who it is and who asks, and moves bulk data with checksums, over
//! TCP and UDP on one port, IPv4 and IPv6.
//!
//! UDP: any datagram is answered with one line of JSON, [`Answer`], that repeats the datagram as
//! `id`. TCP, as often as wanted on a connection: `WHO` is answered with the same line,
//! `UP n` and n octets with [`Checksum`] of what arrived, `DOWN n` with [`Checksum`] and n octets.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Who answered, and whom it saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The pod.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// The client's address as the pod sees it.
    pub client: IpAddr,
    /// What the datagram said; empty over TCP.
    pub id: String,
}

/// What a transfer carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// Octets.
    pub bytes: usize,
    /// Their CRC-32.
    pub crc32: u32,
}

/// How a pod answers.
#[derive(Clone, Debug, clap::Args)]
pub struct PodArgs {
    /// The pod's name, said in every answer.
    #[arg(long)]
    name: String,
    /// Its node's name, said in every answer.
    #[arg(long)]
    node: String,
    /// TCP and UDP port.
    #[arg(long)]
    port: u16,
    /// The address it serves at; all of its own by default.
    #[arg(long, default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    address: IpAddr,
}

/// No transfer is larger; a request for more ends the connection.
const LIMIT: usize = 256 << 20;

/// Serves for ever.
///
/// # Errors
///
/// If the port cannot be had.
pub fn serve(args: PodArgs) -> anyhow::Result<()> {
    // An IPv6 socket takes IPv4 as well (net.ipv6.bindv6only is 0 unless somebody set it).
    let any = SocketAddr::new(args.address, args.port);
    let listener = TcpListener::bind(any).with_context(|| format!("cannot listen on TCP {any}"))?;
    let socket = UdpSocket::bind(any).with_context(|| format!("cannot listen on UDP {any}"))?;
    let datagrams = args.clone();
    std::thread::spawn(move || answer_datagrams(&datagrams, &socket));
    loop {
        // A connection that failed before it was accepted is the client's matter.
        let Ok((stream, client)) = listener.accept() else { continue };
        let args = args.clone();
        std::thread::spawn(move || converse(&args, &stream, client));
    }
}

fn answer_datagrams(args: &PodArgs, socket: &UdpSocket) {
    let mut buffer = [0; 9000];
    loop {
        // Errors here are ICMP errors about earlier answers.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let id = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let _ = socket.send_to(args.answer(client, id).as_bytes(), client);
    }
}

fn converse(args: &PodArgs, stream: &TcpStream, client: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream;
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(64).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["WHO"] => writer.write_all(args.answer(client, String::new()).as_bytes())?,
            ["UP", count] => {
                let checksum = receive(&mut reader, size(count)?)?;
                writer.write_all(line_of(&checksum).as_bytes())?;
            }
            ["DOWN", count] => {
                let data = data(size(count)?);
                writer.write_all(line_of(&checksum(&data)).as_bytes())?;
                writer.write_all(&data)?;
            }
            _ => return Ok(()),
        }
    }
}

impl PodArgs {
    fn answer(&self, client: SocketAddr, id: String) -> String {
        let client = client.ip().to_canonical();
        line_of(&Answer { pod: self.name.clone(), node: self.node.clone(), client, id })
    }
}

fn line_of<T: Serialize>(value: &T) -> String {
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    line
}

fn size(word: &str) -> io::Result<usize> {
    let size = word.parse().map_err(io::Error::other)?;
    if size > LIMIT {
        return Err(io::Error::other("larger than any transfer here"));
    }
    Ok(size)
}

/// Reads so many octets and sums them up.
pub(crate) fn receive(reader: &mut impl Read, bytes: usize) -> io::Result<Checksum> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        let most = left.min(buffer.len());
        let length = reader.read(&mut buffer[..most])?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&buffer[..length]);
        left -= length;
    }
    Ok(Checksum { bytes, crc32: hasher.finalize() })
}

/// The sum of octets at hand.
pub(crate) fn checksum(data: &[u8]) -> Checksum {
    Checksum { bytes: data.len(), crc32: crc32fast::hash(data) }
}

/// Octets without a pattern, the same for the same count, so that a segment that is lost, doubled
/// or out of place changes the sum (Marsaglia, "Xorshift RNGs", 2003).
pub(crate) fn data(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let mut data: Vec<u8> = words.take(bytes.div_ceil(8)).flatten().collect();
    data.truncate(bytes);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_agree_and_notice_a_swapped_segment() {
        let sent = data(100_001);
        assert_eq!(receive(&mut sent.as_slice(), sent.len()).unwrap(), checksum(&sent));
        let mut swapped = sent.clone();
        swapped[..2000].rotate_left(1000);
        assert_ne!(checksum(&swapped), checksum(&sent));
        assert!(receive(&mut &sent[1..], sent.len()).is_err());
    }
}
