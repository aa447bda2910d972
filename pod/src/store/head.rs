//! How far a store had come, kept beside it.
//!
//! A write-ahead log that is cut short, emptied or flipped is, for SQLite, one that ends earlier: commits vanish without a
//! word. So the number of each commit stands in the file itself and, after the commit and before anyone is answered, in a
//! small file beside it, `store.db-head`; and so does the last one that is known to be on the medium: each with
//! `durability = power`, and all of them when the store was closed. A store that has had fewer commits than its head says
//! has lost some.
//!
//! Never ahead of what was committed: a process that is killed between the two leaves a head that is behind, which says
//! nothing. Of commits that were not synced, a machine that goes down may well lose some: the pod then starts without
//! them, says so in its history, and keeps that head as `store.db-head.lost`. What it cannot know: that all files were put
//! back as they once were together, or that the head was removed; and the commits that it had not been told of.
//!
//! The file holds its line twice, so that a bit that flips in it costs nothing.
//!
//! Written by `thread`, compared by `open` and `reader`.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::store::error::StoreError;
use crate::store::open::Durability;

/// The first word of a line.
const MAGIC: &str = "pod-head-2";
/// That of lines that said only whether all of it was synced, and stood alone.
const MAGIC_1: &str = "pod-head-1";

/// What a head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) commits: u64,
    /// The last commit that is known to be on the medium.
    synced: u64,
    boot: String,
}

/// The head of a store that is ours.
#[derive(Debug)]
pub(crate) struct Head {
    file: File,
    /// The store's.
    path: PathBuf,
    seen: Seen,
    durability: Durability,
    complained: bool,
}

/// Commits that a machine which went down has taken along: they had not been synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WentDown {
    /// How many there were.
    pub(crate) had: u64,
    /// How many there are.
    pub(crate) has: u64,
}

/// Where the head of the store at `path` is.
pub(crate) fn path_of(path: &Path) -> PathBuf {
    beside(path, "-head")
}

/// Where a head is kept whose commits are lost.
pub(crate) fn lost_path_of(path: &Path) -> PathBuf {
    beside(path, "-head.lost")
}

/// What the head of the store at `path` says; none if there is none, or one that was never written.
///
/// # Errors
/// `HeadUnreadable` if both its lines are damaged; else if it cannot be read.
pub(crate) fn read(path: &Path) -> Result<Option<Seen>, StoreError> {
    let head = path_of(path);
    // A living owner may be writing it, in one piece, while it is read: what is torn is read again.
    for _ in 0..16 {
        match std::fs::read(&head) {
            // Made, and never written: the disk was full, or the machine went down before what is in it was on the medium.
            Ok(bytes) if bytes.iter().all(|byte| *byte == 0) => return Ok(None),
            Ok(bytes) => {
                if let Some(seen) = newest(&bytes) {
                    return Ok(Some(seen));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read the head of", path, error)),
        }
    }
    Err(StoreError::HeadUnreadable { path: path.to_owned(), head })
}

/// Compares a store with `commits` commits with those that its head has `seen`: what is missing because the machine went
/// down, if anything.
///
/// # Errors
/// `CommitsLost` if some are missing, and nothing explains it.
pub(crate) fn compare(path: &Path, seen: Option<&Seen>, commits: u64) -> Result<Option<WentDown>, StoreError> {
    let Some(seen) = seen.filter(|seen| seen.commits > commits) else { return Ok(None) };
    let (had, has) = (seen.commits, commits);
    // What was on the medium does not go with the machine.
    if seen.synced <= has && !seen.boot.is_empty() && seen.boot != boot() {
        return Ok(Some(WentDown { had, has }));
    }
    Err(StoreError::CommitsLost { path: path.to_owned(), head: path_of(path), had, has })
}

/// Keeps what the head says of commits that are lost, before it is written anew.
pub(crate) fn keep_lost(path: &Path) -> Result<(), StoreError> {
    let keep = || -> io::Result<()> {
        std::fs::copy(path_of(path), lost_path_of(path))?;
        File::open(lost_path_of(path))?.sync_all()
    };
    keep().map_err(|error| StoreError::io("keep the head of", path, error))
}

impl Head {
    /// Takes the head of a store up, or makes it: the store has had `commits` commits, which were compared with what its
    /// head has `seen`.
    pub(crate) fn open(
        path: &Path,
        seen: Option<&Seen>,
        commits: u64,
        durability: Durability,
    ) -> Result<Self, StoreError> {
        let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path_of(path));
        let file = open.map_err(|error| StoreError::io("open the head of", path, error))?;
        // Nothing is synced by being opened.
        let seen = Seen { commits, synced: seen.map_or(0, |seen| seen.synced.min(commits)), boot: boot() };
        let head = Self { file, path: path.to_owned(), seen, durability, complained: false };
        head.write().map_err(|error| StoreError::io("write the head of", path, error))?;
        Ok(head)
    }

    /// The number of the next commit.
    pub(crate) fn next(&self) -> u64 {
        self.seen.commits.saturating_add(1)
    }

    /// The next commit is done. It stands, whatever becomes of this.
    pub(crate) fn advance(&mut self) {
        self.seen.commits = self.next();
        if self.durability == Durability::Power {
            // The log was synced with it, and so was all that stood in it before.
            self.seen.synced = self.seen.commits;
        }
        match self.write() {
            Ok(()) => self.complained = false,
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!(target: "pod::store", head = %path_of(&self.path).display(), %error, "the head cannot be written: a loss of the next commits would not be noticed");
            }
            Err(_) => {}
        }
    }

    /// The store is closed in good order: brings all that is committed onto the medium, and says so, whatever the durability.
    /// Whatever goes wrong costs nothing but that word.
    pub(crate) fn close(mut self, conn: &Connection) {
        if let Err(error) = self.settle(conn) {
            tracing::warn!(target: "pod::store", store = %self.path.display(), error = error.chain(), "the store was closed, and is not known to be on the medium");
        }
    }

    fn settle(&mut self, conn: &Connection) -> Result<(), StoreError> {
        let sqlite = |error| StoreError::sqlite("close", error);
        // Whoever reads it is not waited for: what cannot be written back now stands in the log, which is synced below.
        conn.busy_timeout(std::time::Duration::ZERO).map_err(sqlite)?;
        if let Err(error) = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::debug!(target: "pod::store", store = %self.path.display(), %error, "the log stays");
        }
        if self.seen.synced == self.seen.commits {
            return Ok(());
        }
        let path = self.path.clone();
        let io = |error| StoreError::io("close", &path, error);
        // Not the file itself: closing it would give up the locks of every connection that this process has to it. What was
        // written back was synced with that.
        match File::open(beside(&path, "-wal")) {
            Ok(log) => log.sync_all().map_err(io)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        if let Some(dir) = path.parent() {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
        }
        self.seen.synced = self.seen.commits;
        self.write().and_then(|()| self.file.sync_all()).map_err(io)
    }

    /// In one piece and always of the same length: it takes no more room on the disk than the first time.
    fn write(&self) -> io::Result<()> {
        self.file.write_all_at(line(&self.seen).repeat(2).as_bytes(), 0)
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn line(seen: &Seen) -> String {
    summed(&format!("{MAGIC} {:020} {:020} {:36.36}", seen.commits, seen.synced, seen.boot))
}

fn summed(words: &str) -> String {
    format!("{words} {:08x}\n", crc32fast::hash(words.as_bytes()))
}

/// Of the lines that are whole, the one that has come farthest: of two that differ, one was being written.
fn newest(bytes: &[u8]) -> Option<Seen> {
    // By their length: what ends a line may be what was flipped.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let whole = [bytes, first, second].into_iter().filter_map(|line| parse(std::str::from_utf8(line).ok()?));
    whole.max_by_key(|seen| (seen.commits, seen.synced))
}

fn parse(text: &str) -> Option<Seen> {
    let (words, _) = text.rsplit_once(' ')?;
    if summed(words) != text {
        return None;
    }
    let mut parts = words.splitn(4, ' ');
    let (magic, commits, synced, boot) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let commits = commits.parse().ok()?;
    let synced = match magic {
        MAGIC => synced.parse().ok()?,
        MAGIC_1 if synced == "1" => commits,
        MAGIC_1 => 0,
        _ => return None,
    };
    Some(Seen { commits, synced, boot: boot.trim_end().to_owned() })
}

/// Which run of the machine this is; nothing if the kernel does not say.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Lets the head of the store at `path` say that it was written before the machine was started.
#[cfg(test)]
pub(crate) fn write_as_before_a_boot(path: &Path) {
    let mut seen = read(path).unwrap().unwrap();
    seen.boot = "11111111-2222-3333-4444-555555555555".to_owned();
    std::fs::write(path_of(path), line(&seen).repeat(2)).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "11111111-2222-3333-4444-555555555555";

    #[test]
    fn commits_lost_since_the_machine_went_down_are_an_error_only_if_they_were_synced() {
        let here = boot();
        for (synced, boot, refused) in
            [(0, here.as_str(), true), (5, &here, true), (5, BEFORE, true), (4, BEFORE, false), (0, BEFORE, false)]
        {
            let seen = Seen { commits: 5, synced, boot: boot.to_owned() };
            let lost = compare(Path::new("store.db"), Some(&seen), 4);
            assert_eq!(lost.is_err(), refused, "synced {synced}, boot {boot}: {lost:?}");
            assert!(refused || lost.unwrap() == Some(WentDown { had: 5, has: 4 }));
            assert_eq!(compare(Path::new("store.db"), Some(&seen), 5).unwrap(), None);
        }
        assert_eq!(compare(Path::new("store.db"), None, 0).unwrap(), None);
        // It is older than what was synced: no machine that goes down does that.
        let seen = Seen { commits: 5, synced: 4, boot: BEFORE.to_owned() };
        assert!(compare(Path::new("store.db"), Some(&seen), 3).is_err());
    }

    #[test]
    fn head_of_which_any_bit_was_flipped_says_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let mut head = Head::open(&path, None, 41, Durability::Process).unwrap();
        head.advance();
        let said = read(&path).unwrap().unwrap();
        assert_eq!((said.commits, said.synced), (42, 0));
        let whole = std::fs::read(path_of(&path)).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(path_of(&path), flipped).unwrap();
            assert_eq!(read(&path).unwrap().as_ref(), Some(&said), "bit {bit}");
        }
        // As a machine leaves it that went down before it was on the medium.
        std::fs::write(path_of(&path), vec![0; whole.len()]).unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn head_that_cannot_be_read_is_an_error_of_its_own_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let head = Head::open(&path, None, 41, Durability::Process).unwrap();
        std::fs::write(path_of(&path), line(&head.seen).replace("41", "51").repeat(2)).unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, StoreError::HeadUnreadable { .. }), "{error}");
        assert!(error.to_string().contains("remove `") && !error.to_string().contains("start anew"), "{error}");
    }

    #[test]
    fn head_of_the_first_kind_is_read_as_it_was_meant() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        for (word, synced) in [("0", 0), ("1", 7)] {
            let first = summed(&format!("pod-head-1 {:020} {word} {BEFORE}", 7));
            assert_eq!(first.len(), 80);
            std::fs::write(path_of(&path), first).unwrap();
            assert_eq!(read(&path).unwrap(), Some(Seen { commits: 7, synced, boot: BEFORE.to_owned() }));
        }
    }

    #[test]
    fn commit_is_said_to_be_synced_when_it_is_and_not_when_the_store_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let said = || read(&path).unwrap().map(|seen| (seen.commits, seen.synced));
        let mut head = Head::open(&path, None, 3, Durability::Power).unwrap();
        assert_eq!(said(), Some((3, 0)), "nobody has synced those");
        head.advance();
        assert_eq!(said(), Some((4, 4)));
        let mut head = Head::open(&path, read(&path).unwrap().as_ref(), 4, Durability::Process).unwrap();
        assert_eq!(said(), Some((4, 4)), "they still are");
        head.advance();
        assert_eq!(said(), Some((5, 4)));
    }
}
