//! What a client does: one request over UDP or TCP, or a bulk transfer (edge). Runs in the
//! namespace of the thread that calls it; never repeats a request, so that a lost packet shows.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::pod::{self, Answer, Checksum};

/// A request that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(1);
/// A bulk transfer that stands still for so long has failed.
const STALLED: Duration = Duration::from_secs(5);
/// Flows that are tried until one reaches a pod that is wanted.
const FLOWS: usize = 200;

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// One connection a request.
    Tcp,
    /// One datagram a request.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// An answered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What the pod said.
    pub answer: Answer,
    /// The client's end.
    pub from: SocketAddr,
}

/// Asks who is there, from a new port.
///
/// # Errors
///
/// If there is no answer within a second, or not the one to this request.
pub fn who(transport: Transport, server: SocketAddr) -> anyhow::Result<Reply> {
    match transport {
        Transport::Tcp => who_tcp(server),
        Transport::Udp => {
            let socket = udp(server, 0)?;
            who_udp(&socket, "who")
        }
    }
    .with_context(|| format!("no answer from {server} over {transport}"))
}

/// A socket for datagrams to a server, at a port of one's own, or at any (0).
///
/// # Errors
///
/// If the port is taken, or there is no route to the server.
pub fn udp(server: SocketAddr, port: u16) -> anyhow::Result<UdpSocket> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
    };
    let socket = UdpSocket::bind(any).with_context(|| format!("cannot bind {any}"))?;
    socket.connect(server).with_context(|| format!("no way to {server}"))?;
    Ok(socket)
}

/// Asks over a socket made by [`udp`].
///
/// # Errors
///
/// As [`who`].
pub fn who_udp(socket: &UdpSocket, id: &str) -> anyhow::Result<Reply> {
    socket.set_read_timeout(Some(LIMIT))?;
    socket.send(id.as_bytes())?;
    let mut buffer = [0; 9000];
    let length = socket.recv(&mut buffer)?;
    let answer: Answer = serde_json::from_slice(&buffer[..length])?;
    ensure!(answer.id == id, "asked {id:?}, was answered {:?}", answer.id);
    Ok(Reply { answer, from: socket.local_addr()? })
}

fn who_tcp(server: SocketAddr) -> anyhow::Result<Reply> {
    let stream = connect(server, LIMIT)?;
    let mut reader = BufReader::new(&stream);
    (&stream).write_all(b"WHO\n")?;
    let answer: Answer = read_line(&mut reader)?;
    Ok(Reply { answer, from: stream.local_addr()? })
}

/// Sends so many octets and has the pod sum them up.
///
/// # Errors
///
/// If the transfer stalls for five seconds or the sums differ.
pub fn upload(server: SocketAddr, bytes: usize) -> anyhow::Result<()> {
    upload_to(server, bytes, |_| true)
}

/// As [`upload`], to a pod that is wanted.
///
/// # Errors
///
/// As [`upload`], and if no flow reaches such a pod.
pub fn upload_to(
    server: SocketAddr,
    bytes: usize,
    is_wanted: impl Fn(&Answer) -> bool,
) -> anyhow::Result<()> {
    let data = pod::data(bytes);
    let stream = connect_to(server, is_wanted)?;
    let send = || -> anyhow::Result<Checksum> {
        (&stream).write_all(format!("UP {bytes}\n").as_bytes())?;
        (&stream).write_all(&data)?;
        read_line(&mut BufReader::new(&stream))
    };
    let arrived = send().with_context(|| format!("the upload to {server} stalled"))?;
    ensure!(arrived == pod::checksum(&data), "the upload to {server} arrived changed: {arrived:?}");
    Ok(())
}

/// Fetches so many octets and sums them up.
///
/// # Errors
///
/// If the transfer stalls for five seconds or the sums differ.
pub fn download(server: SocketAddr, bytes: usize) -> anyhow::Result<()> {
    download_from(server, bytes, |_| true)
}

/// As [`download`], from a pod that is wanted.
///
/// # Errors
///
/// As [`download`], and if no flow reaches such a pod.
pub fn download_from(
    server: SocketAddr,
    bytes: usize,
    is_wanted: impl Fn(&Answer) -> bool,
) -> anyhow::Result<()> {
    let stream = connect_to(server, is_wanted)?;
    let receive = || -> anyhow::Result<(Checksum, Checksum)> {
        (&stream).write_all(format!("DOWN {bytes}\n").as_bytes())?;
        let mut reader = BufReader::with_capacity(1 << 16, &stream);
        let promised: Checksum = read_line(&mut reader)?;
        Ok((promised, pod::receive(&mut reader, bytes)?))
    };
    let (promised, arrived) =
        receive().with_context(|| format!("the download from {server} stalled"))?;
    ensure!(arrived == promised, "the download from {server} arrived changed: {arrived:?}");
    Ok(())
}

/// A connection to a pod that is wanted: each new one is another flow.
fn connect_to(
    server: SocketAddr,
    is_wanted: impl Fn(&Answer) -> bool,
) -> anyhow::Result<TcpStream> {
    for _ in 0..FLOWS {
        let stream = connect(server, STALLED)?;
        (&stream).write_all(b"WHO\n")?;
        if is_wanted(&read_line(&mut BufReader::new(&stream))?) {
            return Ok(stream);
        }
    }
    bail!("no flow to {server} reaches a pod that is wanted")
}

fn connect(server: SocketAddr, limit: Duration) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, LIMIT)
        .with_context(|| format!("cannot connect to {server}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    Ok(stream)
}

fn read_line<T: serde::de::DeserializeOwned>(reader: &mut impl BufRead) -> anyhow::Result<T> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| format!("not an answer of a pod: {line:?}"))
}
