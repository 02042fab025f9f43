//! The status socket (edge): whoever connects gets one report as JSON, and the connection closes.

use std::path::{Path, PathBuf};
use std::{fs, io};

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// A request for a report; the driver answers with JSON.
pub type Request = oneshot::Sender<String>;

/// The socket in a run directory.
pub fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("speaker.sock")
}

/// Listens in `run_dir`, which is made if missing; takes over a socket nobody listens on.
///
/// # Errors
///
/// If the directory cannot be written, or another speaker listens there.
pub fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    fs::create_dir_all(run_dir)?;
    let path = path(run_dir);
    match std::os::unix::net::UnixStream::connect(&path) {
        Ok(_) => return Err(io::Error::other("another speaker listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(&path)?,
        Err(_) => {}
    }
    UnixListener::bind(&path)
}

/// Serves until the driver is gone.
pub async fn serve(listener: UnixListener, requests: mpsc::Sender<Request>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if answer(stream, &requests).await.is_err() && requests.is_closed() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot accept on the status socket"),
        }
    }
}

/// One after another: a report is small, and a reader that stalls must not pile up memory.
async fn answer(mut stream: UnixStream, requests: &mpsc::Sender<Request>) -> io::Result<()> {
    let (reply, report) = oneshot::channel();
    requests.send(reply).await.map_err(io::Error::other)?;
    let report = report.await.map_err(io::Error::other)?;
    let write = async {
        stream.write_all(report.as_bytes()).await?;
        stream.shutdown().await
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), write).await?
}
