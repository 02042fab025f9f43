//! The control socket (edge): one request a connection, as a line of JSON; one answer, then it
//! closes. Whoever may open the file may ask: it belongs to the user the speaker runs as.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// What can be asked of a speaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub enum Ask {
    /// For its report, [`crate::status::Report`].
    Status,
    /// For the last flow samples, [`crate::status::Recent`].
    Flows {
        /// Only those behind the one of this number.
        after: u64,
    },
    /// To have a VIP handed over to a node; answered with [`Answer`], before it has happened.
    Move {
        /// The VIP.
        vip: IpAddr,
        /// The node that is to hold it.
        node: String,
    },
    /// To have a node hand over everything and get nothing; answered as `Move`.
    Drain {
        /// The node; the speaker's own if there is none.
        node: Option<String>,
    },
    /// To end that.
    Undrain {
        /// The node; the speaker's own if there is none.
        node: Option<String>,
    },
}

/// Whether what was asked for is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is; the report will show it.
    Accepted {
        /// The node it is about.
        node: String,
    },
    /// It is not.
    Refused {
        /// The named reason.
        reason: String,
        /// The reason in words.
        message: String,
    },
}

/// A request and where its answer, one JSON value, goes.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub ask: Ask,
    /// Where the answer goes.
    pub reply: oneshot::Sender<String>,
}

/// A request is a line of at most so many octets.
const LONGEST: u64 = 4096;
/// A caller that says nothing, or reads nothing, is let go after this.
const PATIENCE: Duration = Duration::from_secs(5);

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
                // One after another: an answer is small, and a reader that stalls must not pile
                // up memory.
                let answered = timeout(PATIENCE, answer(stream, &requests)).await;
                if !matches!(answered, Ok(Ok(()))) && requests.is_closed() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot accept on the control socket"),
        }
    }
}

async fn answer(mut stream: UnixStream, requests: &mpsc::Sender<Request>) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&mut stream).take(LONGEST).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(ask) => {
            let (reply, answer) = oneshot::channel();
            requests.send(Request { ask, reply }).await.map_err(io::Error::other)?;
            answer.await.map_err(io::Error::other)?
        }
        Err(error) => {
            let message = format!("this is no request: {error}");
            let refused = Answer::Refused { reason: "not_understood".to_owned(), message };
            serde_json::to_string(&refused)?
        }
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(line: &[u8]) -> String {
        let directory = tempfile::TempDir::new().unwrap();
        let listener = listen(directory.path()).unwrap();
        let (requests, mut asked) = mpsc::channel::<Request>(1);
        tokio::spawn(serve(listener, requests));
        tokio::spawn(async move {
            while let Some(Request { ask, reply }) = asked.recv().await {
                reply.send(format!("{ask:?}")).unwrap();
            }
        });
        let mut stream = UnixStream::connect(path(directory.path())).await.unwrap();
        stream.write_all(line).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        // What is longer than any request is not even read, which resets the connection.
        if let Err(error) = stream.read_to_string(&mut answer).await {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        answer
    }

    #[tokio::test]
    async fn understands_what_the_commands_say() {
        let vip = "192.168.1.240".parse().unwrap();
        for ask in [
            Ask::Status,
            Ask::Flows { after: 7 },
            Ask::Move { vip, node: "n2".to_owned() },
            Ask::Drain { node: None },
            Ask::Undrain { node: Some("n2".to_owned()) },
        ] {
            let line = serde_json::to_string(&ask).unwrap() + "\n";
            assert_eq!(said(line.as_bytes()).await, format!("{ask:?}"));
        }
    }

    #[tokio::test]
    async fn refuses_what_is_no_request() {
        let long = vec![b' '; 10_000];
        for line in [&b""[..], b"\n", b"{\"ask\": \"reboot\"}\n", b"\xff\xfe\n", &long] {
            let answer = said(line).await;
            assert!(answer.is_empty() || answer.contains("not_understood"), "{answer}");
        }
    }
}
