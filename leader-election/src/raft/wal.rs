//! The log on disk: raft's numbers, entries, the state before them, and the session's epoch.
//!
//! One file of records, each a length, a CRC-32 and a payload; a record is one batch of the core
//! and reaches the disk (fdatasync) before the call returns, so at most the last record can be
//! torn. A torn end is cut when the file is opened. Damage with good records behind it is refused:
//! a forgotten vote could elect two leaders. It must never decide anything; [`super::store`] is the
//! same log in memory. Entries replace those from their position on, so there is no truncation
//! record. In the steady state nothing is written at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::codec::{CodecError, Reader, Writer};
use super::core::Batch;
use super::frame::{
    LogEntry, MAX_CLUSTER_NAME, Snapshot, read_founders, read_names, write_founders, write_names,
};
use super::store::{Hard, Image};
use crate::error::Error;
use crate::model::NodeName;

const FILE: &str = "herald.raft";
const FILE_NEXT: &str = "herald.raft.next";
const LOCK: &str = "herald.raft.lock";
/// First text of the first record; the digit is the version of the format.
const MAGIC: &str = "herald raft log 2";
/// What every version starts with.
const MAGIC_OF_ALL: &str = "herald raft log ";
/// Length and checksum in front of a payload.
const HEADER: usize = 8;
/// No record comes near this; a longer one is damage.
const MAX_RECORD: usize = 64 * 1024 * 1024;
/// No batch has more entries than this.
const MAX_ENTRIES: usize = 1 << 20;

/// The open log of one node.
#[derive(Debug)]
pub struct Wal {
    directory: PathBuf,
    identity: Identity,
    file: File,
    end: u64,
    /// Held as long as the log is open: one process per state directory.
    _lock: File,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    cluster: String,
    node: NodeName,
}

impl Wal {
    /// Opens the log in `directory`, making both if need be, and reads everything in it.
    ///
    /// # Errors
    /// If a file operation fails, the log is another node's or cluster's, it is damaged other than
    /// at its end, or another process has it open.
    pub fn open(directory: &Path, cluster: &str, node: &NodeName) -> Result<(Self, Image), Error> {
        fs::create_dir_all(directory).map_err(failed("create", directory))?;
        let lock = lock(&directory.join(LOCK))?;
        let path = directory.join(FILE);
        let identity = Identity { cluster: cluster.to_owned(), node: node.clone() };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open", &path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read", &path))?;
        let (records, end) = split(&bytes, &path)?;
        if end < bytes.len() {
            tracing::warn!(
                file = %path.display(), kept = end, cut = bytes.len() - end,
                "cut the torn end of the raft log"
            );
            file.set_len(offset(end)).map_err(failed("cut", &path))?;
            file.sync_all().map_err(failed("sync", &path))?;
        }
        let directory = directory.to_owned();
        let mut wal = Self { directory, identity, file, end: offset(end), _lock: lock };
        let image = match records.split_first() {
            None => {
                wal.rewrite(&Image::default())?;
                Image::default()
            }
            Some((first, rest)) => {
                wal.check_identity(first)?;
                replay(rest).map_err(|_| wal.damaged("a good checksum over an unknown record"))?
            }
        };
        Ok((wal, image))
    }

    /// Appends one batch; durable when this returns.
    ///
    /// # Errors
    /// If it cannot be written; the log must not be used any further then.
    pub fn append(&mut self, batch: &Batch) -> Result<(), Error> {
        let record = framed(&write_batch(batch));
        let path = self.path();
        self.file.seek(SeekFrom::Start(self.end)).map_err(failed("seek in", &path))?;
        self.file.write_all(&record).map_err(failed("append to", &path))?;
        self.file.sync_data().map_err(failed("sync", &path))?;
        self.end += offset(record.len());
        Ok(())
    }

    /// Replaces the whole log; durable when this returns, and all or nothing if it is interrupted.
    ///
    /// # Errors
    /// If it cannot be written; the log on disk is then still the old one.
    pub fn rewrite(&mut self, image: &Image) -> Result<(), Error> {
        let next = self.directory.join(FILE_NEXT);
        let mut bytes = framed(&write_identity(&self.identity));
        bytes.extend(framed(&write_image(image)));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&next)
            .map_err(failed("create", &next))?;
        file.write_all(&bytes).map_err(failed("write", &next))?;
        file.sync_all().map_err(failed("sync", &next))?;
        let path = self.path();
        fs::rename(&next, &path).map_err(failed("rename to", &path))?;
        // The new name is durable only with its directory (fsync(2), NOTES).
        let directory = File::open(&self.directory).map_err(failed("open", &self.directory))?;
        directory.sync_all().map_err(failed("sync", &self.directory))?;
        self.file = file;
        self.end = offset(bytes.len());
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Lets every further write fail as on a full disk: Linux's /dev/full (full(4)).
    #[cfg(test)]
    pub(crate) fn fill_up(&mut self) {
        if let Ok(full) = OpenOptions::new().read(true).write(true).open("/dev/full") {
            self.file = full;
        }
    }

    fn check_identity(&self, record: &[u8]) -> Result<(), Error> {
        let magic = Reader::new(record).text(MAGIC.len()).unwrap_or_default();
        if magic != MAGIC && magic.starts_with(MAGIC_OF_ALL) {
            let found = magic.to_owned();
            return Err(Error::WalVersion { path: self.path(), found, known: MAGIC });
        }
        let found = read_identity(record).map_err(|_| self.damaged("no log of Herald"))?;
        if found == self.identity {
            return Ok(());
        }
        Err(Error::ForeignWal {
            path: self.path(),
            found_node: found.node,
            found_cluster: found.cluster,
            node: self.identity.node.clone(),
            cluster: self.identity.cluster.clone(),
        })
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::DamagedWal { path: self.path(), offset: 0, reason }
    }
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Wal { attempt, path, source }
}

fn lock(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed("lock", path)(source)),
    }
}

fn offset(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The payloads of all good records, and where they end.
fn split<'a>(bytes: &'a [u8], path: &Path) -> Result<(Vec<&'a [u8]>, usize), Error> {
    let (mut records, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let reason = match record(&bytes[at..]) {
            Ok(payload) => {
                records.push(payload);
                at += HEADER + payload.len();
                continue;
            }
            Err(reason) => reason,
        };
        // Only the end can be torn: with a good record behind it, this one was good once.
        let claimed = claimed_length(&bytes[at..]).and_then(|length| bytes.get(at + length..));
        if claimed.is_some_and(|behind| record(behind).is_ok()) {
            let path = path.to_owned();
            return Err(Error::DamagedWal { path, offset: offset(at), reason });
        }
        break;
    }
    Ok((records, at))
}

fn claimed_length(bytes: &[u8]) -> Option<usize> {
    let length = usize::try_from(u32::from_be_bytes(*bytes.first_chunk()?)).ok()?;
    (1..=MAX_RECORD).contains(&length).then_some(HEADER + length)
}

/// The payload of the record at the front.
fn record(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let length = claimed_length(bytes).ok_or("a length that cannot be")?;
    let whole = bytes.get(..length).ok_or("ends within a record")?;
    let (header, payload) = whole.split_at(HEADER);
    let crc = header.last_chunk().map(|crc| u32::from_be_bytes(*crc));
    if crc == Some(crc32fast::hash(payload)) { Ok(payload) } else { Err("a wrong checksum") }
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let crc = crc32fast::hash(payload).to_be_bytes();
    [&length, &crc, payload].concat()
}

fn write_identity(identity: &Identity) -> Vec<u8> {
    let mut to = Writer::default();
    to.text(MAGIC).text(&identity.cluster).node(&identity.node);
    to.into_bytes()
}

fn read_identity(record: &[u8]) -> Result<Identity, CodecError> {
    let mut from = Reader::new(record);
    if from.text(MAGIC.len())? != MAGIC {
        return Err(CodecError::BadTag);
    }
    let cluster = from.text(MAX_CLUSTER_NAME)?.to_owned();
    let node = from.node()?;
    from.finish()?;
    Ok(Identity { cluster, node })
}

fn write_batch(batch: &Batch) -> Vec<u8> {
    write_parts(None, None, &batch.entries, batch.hard, batch.epoch)
}

fn write_image(image: &Image) -> Vec<u8> {
    let snapshot = image.snapshot.as_ref();
    write_parts(Some(image), snapshot, &image.entries, Some(image.hard), Some(image.epoch))
}

fn write_parts(
    member: Option<&Image>,
    snapshot: Option<&Snapshot>,
    entries: &[LogEntry],
    hard: Option<Hard>,
    epoch: Option<u64>,
) -> Vec<u8> {
    let mut to = Writer::default();
    to.flag(member.is_some());
    if let Some(Image { id, founders, promised, .. }) = member {
        to.u64(*id);
        write_founders(founders, &mut to);
        to.flag(promised.is_some());
        if let Some(promised) = promised {
            write_names(promised, &mut to);
        }
    }
    to.flag(snapshot.is_some());
    if let Some(snapshot) = snapshot {
        snapshot.write(&mut to);
    }
    to.count(entries.len());
    for entry in entries {
        entry.write(&mut to);
    }
    to.flag(hard.is_some());
    if let Some(Hard { term, vote, commit }) = hard {
        to.u64(term).u64(vote).u64(commit);
    }
    to.flag(epoch.is_some());
    if let Some(epoch) = epoch {
        to.u64(epoch);
    }
    to.into_bytes()
}

fn replay(records: &[&[u8]]) -> Result<Image, CodecError> {
    let mut image = Image::default();
    for record in records {
        replay_record(&mut image, record)?;
    }
    Ok(image)
}

fn replay_record(image: &mut Image, record: &[u8]) -> Result<(), CodecError> {
    let mut from = Reader::new(record);
    if from.flag()? {
        image.id = from.u64()?;
        image.founders = read_founders(&mut from)?;
        image.promised = if from.flag()? { Some(read_names(&mut from)?) } else { None };
    }
    if from.flag()? {
        image.snapshot = Some(Snapshot::read(&mut from)?);
        image.entries.clear();
    }
    for _ in 0..from.count(MAX_ENTRIES)? {
        let entry = LogEntry::read(&mut from)?;
        let before = image.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        let next = before + 1 + offset(image.entries.len());
        if entry.index <= before || entry.index > next {
            return Err(CodecError::Impossible);
        }
        let keep = usize::try_from(entry.index - before - 1).unwrap_or(usize::MAX);
        image.entries.truncate(keep);
        image.entries.push(entry);
    }
    if from.flag()? {
        image.hard = Hard { term: from.u64()?, vote: from.u64()?, commit: from.u64()? };
    }
    if from.flag()? {
        image.epoch = from.u64()?;
    }
    from.finish()
}

#[cfg(test)]
mod tests;
