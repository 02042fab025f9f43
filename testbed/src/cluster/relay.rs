//! Carries TCP connections from a listening socket outside to the API server inside (edge). A
//! socket belongs to the network namespace it was made in, whoever holds it: so the machine reaches
//! the cluster without any interface, address or route of its own.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::lab::netns::Netns;

/// Starts to serve connections, each in two threads, from inside a namespace.
pub fn start(listener: TcpListener, netns: Netns, server: SocketAddr) {
    std::thread::spawn(move || {
        // Threads are born into the namespace of the thread that starts them.
        netns.inside(|| -> anyhow::Result<()> {
            loop {
                // A connection that failed before it was accepted is the client's matter.
                let Ok((client, _)) = listener.accept() else { continue };
                std::thread::spawn(move || carry(&client, server));
            }
        })
    });
}

fn carry(client: &TcpStream, server: SocketAddr) -> io::Result<()> {
    // The client sees a closed connection if this fails, as it would from a dead server.
    let server = TcpStream::connect_timeout(&server, LIMIT)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    std::thread::scope(|scope| {
        scope.spawn(|| copy(client, &server));
        copy(&server, client);
    });
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let copied = io::copy(&mut from, &mut to);
    // An end is passed on as an end, a failure as a failure in both directions.
    let _ = to.shutdown(Shutdown::Write);
    if copied.is_err() {
        let _ = from.shutdown(Shutdown::Both);
    }
}

const LIMIT: Duration = Duration::from_secs(5);
