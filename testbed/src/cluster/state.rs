//! Where the running cluster is written down (edge): one directory in the user's runtime directory,
//! so that `down` and `speakers` find the keeper and a second `up` is refused.
//!
//! Whether a cluster runs is told by a lock and never by a number in a file: the kernel gives the
//! lock up with the keeper's last breath, and process numbers are used again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The directory of one user's cluster.
#[derive(Clone, Debug)]
pub struct State {
    directory: PathBuf,
}

/// Holding it means: no other cluster runs, or this process is part of the one that does.
#[derive(Debug)]
pub struct Lock(File);

impl State {
    /// The directory of the user whose environment this is; it need not exist.
    pub fn of_user() -> Self {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map_or("/run".into(), PathBuf::from);
        Self { directory: runtime.join("herald-testbed") }
    }

    /// Takes the lock, in a directory emptied of what a dead cluster left.
    ///
    /// # Errors
    ///
    /// If a cluster runs, or the directory cannot be written.
    pub fn begin(&self) -> anyhow::Result<Lock> {
        let Self { directory } = self;
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let path = self.lock_file();
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let Some(lock) = try_lock(file, &path)? else {
            bail!("a cluster is up already: end it with `testbed/cluster down`");
        };
        for stale in [self.control(), self.kubeconfig(), self.published()] {
            remove_if_there(&stale)?;
        }
        if self.logs().is_dir() {
            fs::remove_dir_all(self.logs()).context("cannot remove the old logs")?;
        }
        fs::create_dir(self.logs()).context("cannot make the directory of logs")?;
        Ok(lock)
    }

    /// Whether a cluster runs.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn is_held(&self) -> anyhow::Result<bool> {
        let path = self.lock_file();
        match File::open(&path) {
            Ok(file) => Ok(try_lock(file, &path)?.is_none()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot open {}", path.display())),
        }
    }

    /// The process number of the keeper that holds the lock.
    ///
    /// # Errors
    ///
    /// If it is not written down.
    pub fn keeper(&self) -> anyhow::Result<i32> {
        let path = self.lock_file();
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        text.trim().parse().with_context(|| format!("no process number in {}", path.display()))
    }

    /// Whether there is anything of a cluster, running or not.
    pub fn exists(&self) -> bool {
        self.directory.exists()
    }

    /// Removes the directory, and the published kubeconfig unless somebody has changed it.
    ///
    /// # Errors
    ///
    /// If something of it cannot be removed.
    pub fn remove(&self) -> anyhow::Result<()> {
        if let (Ok(written), Ok(path)) =
            (fs::read(self.kubeconfig()), fs::read_to_string(self.published()))
            && fs::read(&path).is_ok_and(|found| found == written)
        {
            remove_if_there(Path::new(&path))?;
        }
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.directory.display()))
            }
            _ => Ok(()),
        }
    }

    fn lock_file(&self) -> PathBuf {
        self.directory.join("keeper")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// Where the caller of `up` wanted it: a file with that path in it.
    pub fn published(&self) -> PathBuf {
        self.directory.join("published")
    }

    /// The socket on which the cluster takes orders.
    pub fn control(&self) -> PathBuf {
        self.directory.join("control")
    }

    /// One log per process of the cluster.
    pub fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }
}

impl Lock {
    /// Writes down who keeps the cluster.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn name_keeper(&mut self, process: u32) -> anyhow::Result<()> {
        let mut write = || -> std::io::Result<()> {
            self.0.set_len(0)?;
            self.0.rewind()?;
            writeln!(self.0, "{process}")
        };
        write().context("cannot write the keeper's process number")
    }

    /// The open file, to be inherited together with the lock.
    pub fn file(&self) -> &File {
        &self.0
    }
}

fn try_lock(file: File, path: &Path) -> anyhow::Result<Option<Lock>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str) -> State {
        let unique = format!("herald-state-{name}-{}", std::process::id());
        State { directory: std::env::temp_dir().join(unique) }
    }

    #[test]
    fn a_second_cluster_is_refused_while_the_lock_is_held() {
        let state = state("lock");
        let mut lock = state.begin().unwrap();
        lock.name_keeper(4711).unwrap();
        assert_eq!(state.keeper().unwrap(), 4711);
        let refused = state.begin().unwrap_err();
        assert!(refused.to_string().contains("already"), "{refused}");
        drop(lock);
        state.begin().unwrap();
        state.remove().unwrap();
        assert!(!state.exists());
    }

    #[test]
    fn removes_the_published_kubeconfig_unless_it_was_changed() {
        let state = state("published");
        for (found, remains) in [("as written", false), ("edited", true)] {
            let _lock = state.begin().unwrap();
            let published = std::env::temp_dir().join(format!("{}-kubeconfig", std::process::id()));
            fs::write(state.kubeconfig(), "as written").unwrap();
            fs::write(state.published(), published.to_str().unwrap()).unwrap();
            fs::write(&published, found).unwrap();
            state.remove().unwrap();
            assert_eq!(published.exists(), remains, "{found}");
            remove_if_there(&published).unwrap();
        }
    }
}
