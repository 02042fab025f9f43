//! A scrape of a speaker's metrics (edge), as Prometheus does it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context;

/// What a speaker in this thread's network namespace answers to a scrape at `address`.
///
/// # Errors
///
/// If it does not answer.
pub fn scrape(address: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).context("cannot ask for metrics")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: herald\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("cannot read metrics")?;
    Ok(text)
}
