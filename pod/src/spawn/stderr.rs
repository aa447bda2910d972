//! What the lives of a pod have written to standard output and error: two files that do not grow without end.
//!
//! A life writes straight into the file, so that what it said is there when it was killed in the next instant, whoever
//! else lives or not: there is no pipe that could break, block or be left undrained when the parent dies. A new life writes
//! behind a line that names it; the life itself looks now and then how long the file is, and begins a new one when it has
//! become too long. The last file is kept beside it.
//!
//! Opened by `supervisor` before the fork, quoted when a child dies before it is ready, watched by `worker::host`, and for
//! a root in the background by `start`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::O_NOFOLLOW;

use crate::id::PodId;

/// LIMIT: the length of one of the two files, in bytes: some ten thousand lines, 2 MiB a pod.
pub(crate) const LOG_BYTES_MAX: u64 = 1 << 20;
/// How often a life looks how long its file is. LIMIT: what it writes between two looks is beyond the bound for so long; a look
/// is two system calls.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// LIMIT: how much of its standard error an error quotes, in bytes.
const QUOTED_BYTES_MAX: u64 = 2_000;

/// Opens the file for the life `pod`, behind what earlier ones have written.
pub(crate) fn open_for(path: &Path, pod: &PodId) -> io::Result<File> {
    if path.symlink_metadata().is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
        fs::rename(path, before(path))?;
        cut(path)?;
    }
    let mut file = append(path)?;
    file.write_all(beginning(pod).as_bytes())?;
    Ok(file)
}

/// What the life `pod` last said, for an error.
pub(crate) fn tail(path: &Path, pod: &PodId) -> String {
    let (own, mut said) = (beginning(pod), String::new());
    // It may have begun a new file and said nothing in that yet.
    for path in [path.to_owned(), before(path)] {
        let bytes = last_of(&path, QUOTED_BYTES_MAX).unwrap_or_default();
        said.insert_str(0, &String::from_utf8_lossy(&bytes));
        if let Some((_, own)) = said.rsplit_once(own.as_str()) {
            said = own.to_owned();
            break;
        }
        // Without its beginning all of it is this life's: it was the last one to write.
        if said.len() as u64 >= QUOTED_BYTES_MAX {
            break;
        }
    }
    said.trim().to_owned()
}

/// Keeps the files of this process bounded for as long as it lives, if its standard error is one of them.
pub(crate) async fn keep_bounded(path: PathBuf) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if !is_ours(&path) {
            return;
        }
        let too_long = path.metadata().is_ok_and(|found| found.len() > LOG_BYTES_MAX);
        let path = path.clone();
        if too_long && let Ok(Err(error)) = tokio::task::spawn_blocking(move || begin_anew(&path, replace)).await {
            tracing::warn!(%error, "the file that keeps what this pod writes to standard error cannot be begun anew");
        }
    }
}

/// Begins a new file, lets `replace` put it in the place of the one that is written to, and keeps the end of that one. In
/// this order: whenever this ends, what was written last stands in one of the two files.
fn begin_anew(path: &Path, replace: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    fs::rename(path, before(path))?;
    let replaced = append(path).and_then(|file| replace(&file));
    if let Err(error) = replaced {
        // It is written to as before.
        fs::rename(before(path), path)?;
        return Err(error);
    }
    cut(path)
}

/// Keeps the end of the file before the one at `path`, as far as it may be long.
fn cut(path: &Path) -> io::Result<()> {
    let (kept, draft) = (before(path), path.with_extension("log.new"));
    if kept.metadata()?.len() > LOG_BYTES_MAX {
        let _ = fs::remove_file(&draft);
        append(&draft)?.write_all(&last_of(&kept, LOG_BYTES_MAX)?)?;
        fs::rename(&draft, kept)?;
    }
    Ok(())
}

/// Whatever this process prints goes to `file` from here on.
fn replace(file: &File) -> io::Result<()> {
    nix::unistd::dup2_stdout(file)?;
    nix::unistd::dup2_stderr(file)?;
    Ok(())
}

/// Whether standard error is the file at `path`: whoever has redirected it keeps it bounded, too.
fn is_ours(path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (fs::metadata("/proc/self/fd/2"), path.symlink_metadata()) else { return false };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

/// Where the file before the present one is.
fn before(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

fn beginning(pod: &PodId) -> String {
    format!("--- pod `{}`, incarnation {} ---\n", pod.name, pod.incarnation)
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(O_NOFOLLOW).open(path)
}

fn last_of(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::pod;

    #[test]
    fn each_life_is_quoted_with_its_own_words_and_those_of_earlier_ones_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stderr.log");
        let (first, second) = (pod("a", 1), pod("a", 2));
        open_for(&path, &first).unwrap().write_all(b"the disk is on fire\n").unwrap();
        assert_eq!(tail(&path, &first), "the disk is on fire");
        let mut log = open_for(&path, &second).unwrap();
        assert_eq!(tail(&path, &second), "", "another life's words are quoted");
        log.write_all(b"so is the roof\n").unwrap();
        assert_eq!(tail(&path, &second), "so is the roof");
        assert!(fs::read_to_string(&path).unwrap().contains("the disk is on fire"), "the earlier life's are gone");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn file_that_is_too_long_is_begun_anew_and_its_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stderr.log");
        let mut log = open_for(&path, &pod("a", 1)).unwrap();
        log.write_all(&vec![b'x'; usize::try_from(2 * LOG_BYTES_MAX).unwrap()]).unwrap();
        log.write_all(b"the last word\n").unwrap();
        let mut now = None;
        begin_anew(&path, |file| {
            now = Some(file.try_clone()?);
            Ok(())
        })
        .unwrap();
        now.unwrap().write_all(b"and one more\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "and one more\n");
        let kept = fs::read(before(&path)).unwrap();
        assert_eq!(kept.len() as u64, LOG_BYTES_MAX);
        assert!(kept.ends_with(b"the last word\n"));
        // A next life does the same if nobody looked in time.
        fs::write(&path, vec![b'y'; usize::try_from(LOG_BYTES_MAX + 1).unwrap()]).unwrap();
        drop(open_for(&path, &pod("a", 2)).unwrap());
        assert!(path.metadata().unwrap().len() < 100);
        assert_eq!(before(&path).metadata().unwrap().len(), LOG_BYTES_MAX);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "a third file is left");
    }

    #[test]
    fn last_words_of_a_life_that_is_killed_while_it_begins_a_new_file_are_quoted_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (path, life) = (dir.path().join("stderr.log"), pod("a", 1));
        let mut log = open_for(&path, &life).unwrap();
        log.write_all(b"the disk is on fire\n").unwrap();
        // Its words go to the old file until `replace` is done; there it ends.
        let killed = |_: &File| -> io::Result<()> {
            log.write_all(b"and so am I\n")?;
            std::panic::resume_unwind(Box::new("killed"));
        };
        let begun = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| begin_anew(&path, killed)));
        assert!(begun.is_err());
        assert_eq!(tail(&path, &life), "the disk is on fire\nand so am I");
        // And before there is a new file at all.
        fs::remove_file(&path).unwrap();
        assert_eq!(tail(&path, &life), "the disk is on fire\nand so am I");
        drop(open_for(&path, &pod("a", 2)).unwrap());
        assert!(fs::read_to_string(before(&path)).unwrap().ends_with("and so am I\n"));
        assert_eq!(tail(&path, &pod("a", 2)), "", "another life's words are quoted");
    }

    #[test]
    fn words_behind_a_new_beginning_are_quoted_with_those_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, life) = (dir.path().join("stderr.log"), pod("a", 1));
        open_for(&path, &life).unwrap().write_all(b"one\n").unwrap();
        begin_anew(&path, |mut file| file.write_all(b"two\n")).unwrap();
        assert_eq!(tail(&path, &life), "one\ntwo");
        // One that cannot be put in its place leaves everything as it was.
        assert!(begin_anew(&path, |_| Err(io::Error::other("no"))).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }
}
