//! Why the process ends when one of its tasks does (edge): in the words of that task.
//!
//! A task that fails drops its channels a moment before it has ended itself. Whoever notices the
//! channel first must not guess: the task knows, and a full disk would read as a closed channel.

use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::watch::error::RecvError;
use tokio::task::{JoinError, JoinHandle};

/// A task that has dropped its channels ends within this.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a part's channel is still open.
///
/// # Errors
///
/// In the words of the part's task, why it is not.
pub(super) async fn open<E>(
    what: &str,
    changed: Result<(), RecvError>,
    task: &mut JoinHandle<Result<(), E>>,
) -> anyhow::Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match changed {
        Ok(()) => Ok(()),
        Err(_) => Err(reason(what, task).await),
    }
}

/// Why a part's channel has closed: its task ends in the same moment, and knows.
async fn reason<E>(what: &str, task: &mut JoinHandle<Result<(), E>>) -> anyhow::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    match tokio::time::timeout(PATIENCE, task).await {
        Ok(ended) => anyhow!(why(what, ended)),
        Err(_) => anyhow!("the {what} ended"),
    }
}

/// Why a task that should never end did.
pub(super) fn why<E>(what: &str, ended: Result<Result<(), E>, JoinError>) -> String
where
    E: std::error::Error + Send + Sync + 'static,
{
    match ended {
        Ok(Ok(())) => format!("the {what} ended"),
        Ok(Err(error)) => format!("the {what} failed: {:#}", anyhow::Error::new(error)),
        Err(error) => format!("the {what} crashed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::sync::watch;

    use super::*;

    #[tokio::test]
    async fn a_closed_channel_is_told_in_the_words_of_its_task() {
        let full = || io::Error::other("No space left on device");
        let (view, mut seen) = watch::channel(());
        let mut task = tokio::spawn(async move {
            drop(view);
            Err::<(), _>(full())
        });
        let changed = seen.changed().await;
        let told = open("election", changed, &mut task).await.unwrap_err().to_string();
        assert_eq!(told, "the election failed: No space left on device");
    }
}
