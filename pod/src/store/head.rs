//! How far a store had come, kept beside it.
//!
//! A write-ahead log that is cut short, emptied or flipped is, for SQLite, one that ends earlier: commits vanish without a
//! word. So the number of each commit stands in the file itself and, after the commit and before anyone is answered, in a
//! small file beside it, `store.db-head`. A store that has had fewer commits than its head says has lost some.
//!
//! Never ahead of what was committed: a process that is killed between the two leaves a head that is behind, which says
//! nothing. After the machine has gone down, a store whose acks were not synced (`durability = process`) may well lack some:
//! that is said, and the pod starts. What it cannot know: that all files were put back as they once were together, or that
//! the head was removed; and the commits that it had not been told of.
//!
//! Written by `thread`, compared by `open` and `reader`.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::store::error::StoreError;
use crate::store::open::Durability;

/// The first word of the file.
const MAGIC: &str = "pod-head-1";

/// What a head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) commits: u64,
    synced: bool,
    boot: String,
}

/// The head of a store that is ours.
#[derive(Debug)]
pub(crate) struct Head {
    file: File,
    path: PathBuf,
    seen: Seen,
    complained: bool,
}

/// Where the head of the store at `path` is.
pub(crate) fn path_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-head");
    name.into()
}

/// What the head of the store at `path` says; none if there is none.
///
/// # Errors
/// If it cannot be read, or is damaged itself.
pub(crate) fn read(path: &Path) -> Result<Option<Seen>, StoreError> {
    let head = path_of(path);
    // A living owner may be writing it, in one piece, while it is read: what is torn is read again.
    for _ in 0..16 {
        match std::fs::read_to_string(&head) {
            // Made, and never written: the disk was full.
            Ok(text) if text.is_empty() => return Ok(None),
            Ok(text) => {
                if let Some(seen) = parse(&text) {
                    return Ok(Some(seen));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == ErrorKind::InvalidData => {}
            Err(error) => return Err(StoreError::io("read the head of", path, error)),
        }
    }
    let detail = format!("its head `{}` cannot be read; remove it if you know the store to be whole", head.display());
    Err(StoreError::Damaged { path: path.to_owned(), detail })
}

/// An error if a store with `commits` commits has lost some of those that its head has `seen`.
pub(crate) fn compare(path: &Path, seen: Option<&Seen>, commits: u64) -> Result<(), StoreError> {
    let Some(seen) = seen.filter(|seen| seen.commits > commits) else { return Ok(()) };
    if !seen.synced && !seen.boot.is_empty() && seen.boot != boot() {
        tracing::error!(
            target: "pod::store", store = %path.display(), had = seen.commits, has = commits,
            "the machine went down, and the store has lost its last commits; `durability = power` keeps them"
        );
        return Ok(());
    }
    Err(StoreError::CommitsLost { path: path.to_owned(), head: path_of(path), had: seen.commits, has: commits })
}

impl Head {
    /// Takes the head of a store up, or makes it: the store has had `commits` commits, which were compared.
    pub(crate) fn open(path: &Path, commits: u64, durability: Durability) -> Result<Self, StoreError> {
        let head = path_of(path);
        let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&head);
        let file = open.map_err(|error| StoreError::io("open the head of", path, error))?;
        let seen = Seen { commits, synced: durability == Durability::Power, boot: boot() };
        let mut head = Self { file, path: head, seen, complained: false };
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
        match self.write() {
            Ok(()) => self.complained = false,
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!(target: "pod::store", head = %self.path.display(), %error, "the head cannot be written: a loss of the next commits would not be noticed");
            }
            Err(_) => {}
        }
    }

    /// In one piece and always of the same length: it takes no more room on the disk than the first time.
    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(line(&self.seen).as_bytes(), 0)
    }
}

fn line(seen: &Seen) -> String {
    let words = format!("{MAGIC} {:020} {} {:36.36}", seen.commits, u8::from(seen.synced), seen.boot);
    format!("{words} {:08x}\n", crc32fast::hash(words.as_bytes()))
}

fn parse(text: &str) -> Option<Seen> {
    let (words, _) = text.rsplit_once(' ')?;
    let mut parts = words.splitn(4, ' ');
    let (magic, commits, synced, boot) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let seen = Seen { commits: commits.parse().ok()?, synced: synced == "1", boot: boot.trim_end().to_owned() };
    // Its sum included: what we would have written is what stands there.
    (magic == MAGIC && line(&seen) == text).then_some(seen)
}

/// Which run of the machine this is; nothing if the kernel does not say.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_lost_since_the_machine_went_down_are_an_error_only_if_they_were_synced() {
        let (here, before) = (boot(), "11111111-2222-3333-4444-555555555555".to_owned());
        for (synced, boot, refused) in
            [(false, &here, true), (true, &here, true), (true, &before, true), (false, &before, false)]
        {
            let seen = Seen { commits: 5, synced, boot: boot.clone() };
            let lost = compare(Path::new("store.db"), Some(&seen), 4);
            assert_eq!(lost.is_err(), refused, "synced {synced}, boot {boot}: {lost:?}");
            compare(Path::new("store.db"), Some(&seen), 5).unwrap();
        }
        compare(Path::new("store.db"), None, 0).unwrap();
    }

    #[test]
    fn head_that_was_flipped_anywhere_is_said_to_be_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let mut head = Head::open(&path, 41, Durability::Process).unwrap();
        head.advance();
        assert_eq!(read(&path).unwrap().unwrap().commits, 42);
        let whole = std::fs::read(path_of(&path)).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(path_of(&path), flipped).unwrap();
            assert!(matches!(read(&path), Err(StoreError::Damaged { .. })), "bit {bit}");
        }
    }
}
