//! All that an examination may change.
//!
//! Each of these proves first that what it changes is ours, or nobody's: an owner that the kernel names for an open
//! descriptor, or a life lock that is held while it works. A lock that is held by somebody else ends the attempt.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::id::Incarnation;
use crate::life_lock::LifeLock;
use crate::runtime_dir::{PodPaths, Roots};
use crate::spawn::process::kill_programs_of;

/// Takes from everybody else the use of a file or directory that is ours.
pub(super) fn tighten(path: &Path) -> Result<String, String> {
    let tighten = || {
        // What a link leads to may be anybody's. The descriptor only names the file: one with which it could be read would, when it
        // is closed, give up the locks that SQLite has on a store of a pod in this very process.
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_PATH;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let found = file.metadata()?;
        if found.is_symlink() {
            return Err(io::Error::other("it is a symbolic link"));
        }
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it is not ours"));
        }
        let mode = found.mode() & 0o700;
        let named = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::fs::set_permissions(named, std::fs::Permissions::from_mode(mode))?;
        Ok(mode)
    };
    tighten().map(|mode| format!("its mode is {mode:o} now")).map_err(|error: io::Error| error.to_string())
}

/// Removes what a dead life has left of its runtime directory, as the holder of the pod's life lock, unless `over` says why one may be
/// about to begin.
pub(super) fn reclaim(paths: &PodPaths, over: impl Fn() -> Result<(), String>) -> Result<String, String> {
    as_its_only_life(paths, over, || {
        let dir = paths.runtime_dir();
        let plain = std::fs::symlink_metadata(dir).map_err(|error| error.to_string())?;
        if !plain.is_dir() || plain.uid() != rustix::process::geteuid().as_raw() {
            return Err("it is no directory of ours".to_owned());
        }
        let remove = || {
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if !kind.is_socket() && !kind.is_file() {
                    return Err(io::Error::other(format!("`{}` is nothing that a pod makes", entry.path().display())));
                }
                std::fs::remove_file(entry.path())?;
            }
            std::fs::remove_dir(dir)
        };
        remove().map(|()| "it was removed".to_owned()).map_err(|error| error.to_string())
    })
}

/// Kills the programs of `life`, a life of the pod at `paths`, unless `over` says why it may not be over.
pub(super) fn end_programs(
    paths: &PodPaths,
    roots: &Roots,
    life: Incarnation,
    over: impl Fn() -> Result<(), String>,
) -> Result<String, String> {
    as_its_only_life(paths, over, || match kill_programs_of(life, roots) {
        1 => Ok("it was killed".to_owned()),
        0 => Ok("it has ended".to_owned()),
        killed => Ok(format!("it was killed, and {} more of the same life", killed - 1)),
    })
}

/// Does `work` while no life of the pod lives, and none can begin; not if one is about to, which would find its lock taken, or if
/// that cannot be known. The word of the last holder stays: it tells whose programs are left.
fn as_its_only_life<T>(
    paths: &PodPaths,
    over: impl Fn() -> Result<(), String>,
    work: impl FnOnce() -> Result<T, String>,
) -> Result<T, String> {
    // Before, so that it is not in the way of one that is known; and again, for one that was not.
    over()?;
    let lock = LifeLock::seize(&paths.life_lock()).map_err(|error| error.to_string())?;
    let done = over().and_then(|()| work());
    drop(lock);
    done
}
