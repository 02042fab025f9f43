//! The edge that reads a directory of manifests and watches it.
//!
//! Every change leads to a whole new look at the directory; the watch only says when to look. What
//! the files mean is decided in `assemble`, never here. A directory of a mounted ConfigMap works:
//! its files are links, and the change is a renamed link named with a dot.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch as channel};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::assemble::{Assembler, FileState, Options, Snapshot};
use super::file::MAX_FILE_BYTES;
use crate::problem::{Level, Location, Problem, Reason};

/// A change is often several: a file is truncated, then written in pieces. Half a file may well be
/// a manifest of fewer objects.
const QUIET: Duration = Duration::from_millis(20);
/// Files that were closed or renamed are whole; others may be right behind them.
const QUIET_WHEN_WHOLE: Duration = Duration::from_millis(2);
/// A directory that never is quiet is looked at all the same.
const QUIET_AT_MOST: Duration = Duration::from_millis(200);
/// Watches lose events, for example when the directory itself is replaced.
const RESCAN: Duration = Duration::from_secs(5);
const MAX_FILES: usize = 32_768;
const MAX_TOTAL_BYTES: u64 = 256 << 20;

/// Why a directory cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It could not be read at the start.
    #[error("cannot read the manifest directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        source: ScanError,
    },
    /// The task that reads has failed.
    #[error("the task that reads the manifest directory has failed")]
    Task(#[from] JoinError),
    /// A task that watches an API server has failed.
    #[error("the watch of {0} in the API server has ended")]
    Ended(String),
}

/// Why a look at a directory gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The directory could not be listed.
    #[error(transparent)]
    List(#[from] io::Error),
    /// It has more files than are read.
    #[error("it has more than {MAX_FILES} manifests")]
    TooManyFiles,
    /// The files have more bytes together than are read.
    #[error("its manifests have more than {MAX_TOTAL_BYTES} bytes together")]
    TooManyBytes,
}

/// Reads the directory and keeps watching it until every receiver is dropped.
///
/// The first snapshot is complete when this returns. The task ends with an error only when reading
/// itself breaks; a directory that disappears later leaves the last good state in force.
///
/// # Errors
///
/// The directory does not exist, is no directory or cannot be read.
pub async fn watch(
    directory: &Path,
) -> Result<(channel::Receiver<Arc<Snapshot>>, JoinHandle<Result<(), WatchError>>), WatchError> {
    watch_with(directory, Options::default()).await
}

/// The same with other options than the default ones.
///
/// # Errors
///
/// The directory does not exist, is no directory or cannot be read.
pub async fn watch_with(
    directory: &Path,
    options: Options,
) -> Result<(channel::Receiver<Arc<Snapshot>>, JoinHandle<Result<(), WatchError>>), WatchError> {
    let path = directory.to_owned();
    let wake = Arc::new(Wake::default());
    // Watching begins before the first look, so that no change falls between the two.
    let watcher = start_watcher(&path, Arc::clone(&wake));
    let mut looker = Looker {
        path,
        assembler: Assembler::new(options),
        watcher: None,
        broken: None,
        in_force: None,
    };
    match watcher {
        Ok(watcher) => looker.watcher = Some(watcher),
        Err(error) => looker.broken = Some(error.to_string()),
    }
    let (first, mut looker) = look(looker).await?;
    let first = match first {
        Ok(snapshot) => snapshot,
        Err(source) => return Err(WatchError::Directory { path: looker.path, source }),
    };
    let (sender, receiver) = channel::channel(first);
    let task = tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return Ok(()),
                () = wake.told.notified() => wake.settle().await,
                () = sleep(RESCAN) => {}
            }
            let (result, back) = look(looker).await?;
            looker = back;
            let last = Arc::clone(&sender.borrow());
            let next =
                result.unwrap_or_else(|error| Arc::new(unreadable(&last, &looker.path, &error)));
            if !Arc::ptr_eq(&next, &last) && next != last {
                sender.send_replace(next);
            }
        }
    });
    Ok((receiver, task))
}

/// What reading needs from one look to the next.
struct Looker {
    path: PathBuf,
    assembler: Assembler,
    /// Held because dropping it ends the watch.
    watcher: Option<RecommendedWatcher>,
    /// Why there is no watch.
    broken: Option<String>,
    /// What came of the last look, unless the directory could not be read.
    in_force: Option<Arc<Snapshot>>,
}

/// One look at the directory, off the threads that must not block. Files that are all as they were
/// cost their reading and nothing more, however many objects are in them.
async fn look(mut looker: Looker) -> Result<(Result<Arc<Snapshot>, ScanError>, Looker), JoinError> {
    spawn_blocking(move || {
        let snapshot = scan(&looker.path).map(|files| {
            if let Some(known) = looker.in_force.take_if(|_| looker.assembler.has_seen(&files)) {
                return known;
            }
            let mut snapshot = looker.assembler.update(files);
            snapshot.problems.extend(looker.broken.as_ref().map(|cause| Problem {
                level: Level::Warning,
                object: None,
                location: Some(whole(&looker.path)),
                reason: Reason::NotWatched,
                message: format!(
                    "cannot watch the directory ({cause}); it is read again every {} s instead",
                    RESCAN.as_secs()
                ),
            }));
            Arc::new(snapshot)
        });
        looker.in_force = snapshot.as_ref().ok().cloned();
        (snapshot, looker)
    })
    .await
}

/// What the watch has told since the last look.
#[derive(Debug, Default)]
struct Wake {
    told: Notify,
    /// Manifests that somebody has begun to write and not closed yet.
    unfinished: Mutex<BTreeSet<PathBuf>>,
}

impl Wake {
    fn tell(&self, event: &notify::Event) {
        use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind};
        let is_begun = match event.kind {
            // Our own reading makes access events too.
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => return,
            EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) => true,
            _ => false,
        };
        let name =
            |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).map(is_manifest);
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        for path in event.paths.iter().filter(|path| name(path) == Some(true)) {
            match is_begun {
                true => drop(unfinished.insert(path.clone())),
                false => drop(unfinished.remove(path)),
            }
        }
        drop(unfinished);
        self.told.notify_one();
    }

    /// Waits until the directory has been quiet for a moment.
    async fn settle(&self) {
        let quiet = async { while timeout(self.quiet(), self.told.notified()).await.is_ok() {} };
        let _ = timeout(QUIET_AT_MOST, quiet).await;
        // A hard link is a file that nobody closes; whoever still writes will tell.
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn quiet(&self) -> Duration {
        let unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        if unfinished.is_empty() { QUIET_WHEN_WHOLE } else { QUIET }
    }
}

fn start_watcher(path: &Path, wake: Arc<Wake>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        match event {
            Ok(event) => wake.tell(&event),
            // Events may be lost.
            Err(_) => wake.told.notify_one(),
        }
    })?;
    watcher.watch(path, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// The last state, with the problem that there is no newer one.
fn unreadable(last: &Snapshot, path: &Path, error: &ScanError) -> Snapshot {
    let reason = match error {
        ScanError::List(_) => Reason::Unreadable,
        ScanError::TooManyFiles | ScanError::TooManyBytes => Reason::TooManyFiles,
    };
    let problem = Problem {
        level: Level::Error,
        object: None,
        location: Some(whole(path)),
        reason,
        message: format!(
            "cannot read the manifest directory: {error}; the last good state stays in force"
        ),
    };
    let mut next = last.clone();
    next.problems.retain(|known| known.location != problem.location);
    next.problems.push(problem);
    next
}

fn whole(path: &Path) -> Location {
    Location { file: path.display().to_string(), line: 0, column: 0 }
}

/// All manifests of a directory, by file name.
///
/// # Errors
///
/// The directory cannot be listed, or there is more in it than is read. A single file that cannot
/// be read is no error here.
pub fn scan(directory: &Path) -> Result<BTreeMap<String, FileState>, ScanError> {
    let mut files = BTreeMap::new();
    let mut total = 0;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if !is_manifest(name) {
            continue;
        }
        let Some(state) = read_file(&path) else { continue };
        if let FileState::Bytes(bytes) = &state {
            total += bytes.len() as u64;
        }
        files.insert(name.to_owned(), state);
        if files.len() > MAX_FILES {
            return Err(ScanError::TooManyFiles);
        }
        if total > MAX_TOTAL_BYTES {
            return Err(ScanError::TooManyBytes);
        }
    }
    Ok(files)
}

/// Whether the name is that of a manifest, and not of what editors and ConfigMaps leave around.
fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    let temporary = name.starts_with(['.', '#']) || name.ends_with('~');
    !temporary && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// One file, following links; nothing if it is gone by now or is no regular file.
pub fn read_file(path: &Path) -> Option<FileState> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => None,
        _ => Some(FileState::Unreadable(format!("cannot read the file: {error}"))),
    };
    // Opening a pipe would wait for its writer, so the kind is asked first.
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return failed(error),
    };
    if !metadata.is_file() {
        return None;
    }
    if metadata.len() > MAX_FILE_BYTES as u64 {
        return Some(FileState::TooLarge(metadata.len()));
    }
    match std::fs::read(path) {
        Ok(bytes) => Some(FileState::Bytes(bytes)),
        Err(error) => failed(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const POOL: &str = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\n\
                        metadata: {name: NAME}\nspec: {addresses: [RANGE]}\n";

    fn pool(name: &str, range: &str) -> String {
        POOL.replace("NAME", name).replace("RANGE", range)
    }

    /// Waits for the first snapshot for which the condition holds.
    async fn until(
        receiver: &mut channel::Receiver<Arc<Snapshot>>,
        condition: impl FnMut(&Arc<Snapshot>) -> bool,
    ) -> Arc<Snapshot> {
        // Shorter than the rescan, so that it is the watch that has noticed.
        let waited = timeout(RESCAN / 2, receiver.wait_for(condition)).await;
        Arc::clone(&waited.expect("no such snapshot in time").expect("the task has ended"))
    }

    #[tokio::test]
    async fn follows_files_as_they_come_change_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("a.yaml"), pool("a", "192.0.2.0/28")).unwrap();
        let (mut receiver, task) = watch(directory.path()).await.unwrap();
        let names = |snapshot: &Snapshot| {
            snapshot.observed.pools.keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(&receiver.borrow()), "a", "the first snapshot is complete");
        fs::write(path("b.json"), pool("b", "198.51.100.0/28")).unwrap();
        until(&mut receiver, |snapshot| names(snapshot) == "a b").await;
        fs::write(path("b.json"), pool("b", "wrong")).unwrap();
        let snapshot = until(&mut receiver, |snapshot| !snapshot.problems.is_empty()).await;
        assert_eq!(names(&snapshot), "a b");
        fs::rename(path("a.yaml"), path("a.yaml.disabled")).unwrap();
        until(&mut receiver, |snapshot| names(snapshot) == "b").await;
        drop(receiver);
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn follows_a_mounted_config_map() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for (version, name) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("pool.yaml"), pool(name, "192.0.2.0/28")).unwrap();
        }
        std::os::unix::fs::symlink("..1", path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/pool.yaml", path("pool.yaml")).unwrap();
        let (mut receiver, _task) = watch(directory.path()).await.unwrap();
        assert!(receiver.borrow().observed.pools.contains_key("one"));
        std::os::unix::fs::symlink("..2", path("..new")).unwrap();
        fs::rename(path("..new"), path("..data")).unwrap();
        until(&mut receiver, |snapshot| snapshot.observed.pools.contains_key("two")).await;
    }

    #[tokio::test]
    async fn keeps_the_last_good_state_when_the_directory_disappears() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("manifests");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("a.yaml"), pool("a", "192.0.2.0/28")).unwrap();
        let (mut receiver, _task) = watch(&directory).await.unwrap();
        fs::rename(&directory, parent.path().join("elsewhere")).unwrap();
        // A look is due at the latest with the rescan.
        let gone = receiver.wait_for(|snapshot| !snapshot.problems.is_empty());
        let snapshot = Arc::clone(&timeout(RESCAN * 2, gone).await.unwrap().unwrap());
        assert!(snapshot.observed.pools.contains_key("a"));
        assert_eq!(snapshot.problems[0].reason, Reason::Unreadable);
    }

    #[tokio::test]
    async fn says_which_directory_is_missing() {
        let error = watch(Path::new("/no/such/directory")).await.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap();
        assert_eq!(
            format!("{error}: {cause}"),
            "cannot read the manifest directory /no/such/directory: No such file or directory (os \
             error 2)"
        );
    }

    #[test]
    fn reads_manifests_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in
            ["a.yaml", "b.yml", "c.json", ".hidden.yaml", "#edit.yaml", "d.yaml~", "e.txt", "f"]
        {
            fs::write(path(name), "").unwrap();
        }
        fs::create_dir(path("folder.yaml")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("dangling.yaml")).unwrap();
        let large = fs::File::create(path("large.yaml")).unwrap();
        large.set_len(MAX_FILE_BYTES as u64 + 1).unwrap();
        let files = scan(directory.path()).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a.yaml", "b.yml", "c.json", "large.yaml"]);
        assert_eq!(files["large.yaml"], FileState::TooLarge(MAX_FILE_BYTES as u64 + 1));
    }

    #[test]
    fn a_file_that_is_still_written_is_waited_for_longer_than_a_whole_one() {
        use notify::event::{
            AccessKind, AccessMode, CreateKind, DataChange, Event, EventKind, ModifyKind,
            RenameMode,
        };
        let wake = Wake::default();
        let tell = |kind, name: &str| wake.tell(&Event::new(kind).add_path(name.into()));
        let create = EventKind::Create(CreateKind::File);
        let write = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let rename = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        tell(create, "/m/.a.yaml.new");
        tell(rename, "/m/a.yaml");
        assert_eq!(wake.quiet(), QUIET_WHEN_WHOLE, "what is not read may be half written");
        tell(create, "/m/a.yaml");
        tell(write, "/m/b.yaml");
        tell(close, "/m/a.yaml");
        assert_eq!(wake.quiet(), QUIET, "b is open");
        tell(close, "/m/b.yaml");
        assert_eq!(wake.quiet(), QUIET_WHEN_WHOLE);
    }
}
