//! The commands' end of the speaker's control socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::speaker::socket::{self, Ask};

/// A speaker that has not answered after this is not healthy.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the speaker whose run directory this is.
///
/// # Errors
///
/// If no speaker answers there within 5 seconds.
pub fn ask(run_dir: &Path, ask: &Ask) -> anyhow::Result<String> {
    let path = socket::path(run_dir);
    let mut stream = UnixStream::connect(&path).with_context(|| {
        format!("no speaker answers at {}: is it running, with this --run-dir?", path.display())
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = serde_json::to_string(ask)?;
    request.push('\n');
    let mut answer = String::new();
    stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.read_to_string(&mut answer).map(drop))
        .with_context(|| format!("the speaker at {} did not finish its answer", path.display()))?;
    Ok(answer)
}

/// Whether a speaker listens in a run directory.
pub fn is_heard(run_dir: &Path) -> bool {
    UnixStream::connect(socket::path(run_dir)).is_ok()
}

/// Asks for a report.
///
/// # Errors
///
/// As [`ask`], or if it is no JSON.
pub fn report(run_dir: &Path) -> anyhow::Result<Value> {
    let report = ask(run_dir, &Ask::Status)?;
    serde_json::from_str(&report).context("the speaker's report cannot be read")
}
