//! Files of a scope, opened as it was decided and in no other way.
//!
//! A path is decided about as it is written, and then walked by the kernel (`openat2`) from the root, through no symbolic
//! link, no magic link and no `..`: what is opened is what was decided about, whatever is renamed or replaced meanwhile.
//! Whoever needs what a link names resolves the link and asks for that. The last part of a path is used below the
//! descriptor of its directory, after a look whether that directory is still where it was asked for.
//!
//! A regular file that has a second name is not opened for writing: that name may be outside. Nothing here follows a
//! link, waits for a pipe, or opens a device.
//!
//! For tools and workers, which get a [`Scope`] from [`PodHandle::scope`](crate::PodHandle::scope).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::rules::{RuleError, plain};
use super::{Permission, Scope};

/// LIMIT: how often a walk is begun again that the kernel gave up because something was renamed in that moment.
const WALKS_MAX: usize = 64;

/// LIMIT: looks at the name of a file that is to be written. The kernel reads a name and the number of names one after the
/// other; whoever links and unlinks in between must do so at each look.
const LOOKS: usize = 4;

/// Why a file of a scope was not opened or changed. Nothing was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// It may not be used so.
    #[error("`{}` may not be used to {wanted}: the scope {}", path.display(), what_it_says(*has))]
    Denied {
        /// Which.
        path: PathBuf,
        /// For what.
        wanted: Permission,
        /// How it may be used.
        has: Permission,
    },
    /// The path is no path of a scope.
    #[error(transparent)]
    Path(#[from] RuleError),
    /// A symbolic link is on the way.
    #[error("`{}` leads through a symbolic link; use the path that the link names, if the scope has it", path.display())]
    Link {
        /// Which.
        path: PathBuf,
    },
    /// The file has a second name, which may be outside.
    #[error("`{}` has {links} names (hard links) and is not opened for writing; copy it, and write the copy", path.display())]
    HardLinked {
        /// Which.
        path: PathBuf,
        /// How many names.
        links: u64,
    },
    /// It is a pipe, a socket or a device.
    #[error("`{}` is no regular file", path.display())]
    Special {
        /// Which.
        path: PathBuf,
    },
    /// It, or its directory, was renamed or removed meanwhile.
    #[error("`{}` or its directory was moved while it was being used; try again", path.display())]
    Moved {
        /// Which.
        path: PathBuf,
    },
    /// Something in it has rules of its own, which would not go with it.
    #[error("`{}` holds `{}`, which has a rule of its own, and stays where it is", path.display(), holds.display())]
    HoldsOther {
        /// Which.
        path: PathBuf,
        /// What it holds.
        holds: PathBuf,
    },
    /// The system said no.
    #[error("failed to {doing} `{}`", path.display())]
    Io {
        /// What we did.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The directory of something, held, and the name that it has or is to have there.
struct Spot<'a> {
    path: PathBuf,
    dir: OwnedFd,
    name: &'a std::ffi::OsStr,
}

impl Scope {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// [`ScopeError`].
    pub fn open_read(&self, path: &Path) -> Result<File, ScopeError> {
        let path = self.allowed(path, Permission::Read)?;
        let spot = Spot::of(&path)?;
        spot.regular(spot.open("open", OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?, None)
    }

    /// Opens a file that exists for writing. It is not cut off.
    ///
    /// # Errors
    /// [`ScopeError`].
    pub fn open_write(&self, path: &Path) -> Result<File, ScopeError> {
        let path = self.allowed(path, Permission::Write)?;
        let spot = Spot::of(&path)?;
        spot.regular(spot.open("open", OFlags::RDWR | OFlags::NONBLOCK, Mode::empty())?, Some(1))
    }

    /// Makes a new file and opens it for writing.
    ///
    /// # Errors
    /// [`ScopeError`]; also if there is something of that name.
    pub fn create(&self, path: &Path) -> Result<File, ScopeError> {
        let path = self.allowed(path, Permission::Write)?;
        let spot = Spot::of(&path)?;
        let mode = Mode::from_raw_mode(0o666);
        Ok(spot.open("make", OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode)?.into())
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// [`ScopeError`]; also if there is something of that name.
    pub fn make_dir(&self, path: &Path) -> Result<(), ScopeError> {
        let path = self.allowed(path, Permission::Write)?;
        let spot = Spot::of(&path)?;
        let made = rustix::fs::mkdirat(&spot.dir, spot.name, Mode::from_raw_mode(0o777));
        made.map_err(|error| spot.error("make", error))
    }

    /// Gives a file or directory another name. What had that name is replaced, as far as the system does so.
    ///
    /// # Errors
    /// [`ScopeError`].
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), ScopeError> {
        let (from, to) = (self.movable(from)?, self.movable(to)?);
        let (old, new) = (Spot::of(&from)?, Spot::of(&to)?);
        let renamed = rustix::fs::renameat(&old.dir, old.name, &new.dir, new.name);
        renamed.map_err(|error| old.error("rename", error))
    }

    /// Removes a file, a link (not what it names), or an empty directory.
    ///
    /// # Errors
    /// [`ScopeError`].
    pub fn remove(&self, path: &Path) -> Result<(), ScopeError> {
        let path = self.movable(path)?;
        let spot = Spot::of(&path)?;
        let removed = match rustix::fs::unlinkat(&spot.dir, spot.name, AtFlags::empty()) {
            Err(Errno::ISDIR) => rustix::fs::unlinkat(&spot.dir, spot.name, AtFlags::REMOVEDIR),
            done => done,
        };
        removed.map_err(|error| spot.error("remove", error))
    }

    fn allowed(&self, path: &Path, wanted: Permission) -> Result<PathBuf, ScopeError> {
        let path = plain(&path.to_string_lossy())?;
        match self.at(&path) {
            has if has >= wanted => Ok(path),
            has => Err(ScopeError::Denied { path, wanted, has }),
        }
    }

    /// A path that may be renamed or removed: nothing in it has a rule, which would not go with it.
    fn movable(&self, path: &Path) -> Result<PathBuf, ScopeError> {
        let path = self.allowed(path, Permission::Write)?;
        match self.targets().into_iter().find(|target| target.starts_with(&path)) {
            Some(holds) => Err(ScopeError::HoldsOther { path, holds }),
            None => Ok(path),
        }
    }
}

impl<'a> Spot<'a> {
    /// Walks to the directory of `path`.
    fn of(path: &'a Path) -> Result<Self, ScopeError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            let source = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(ScopeError::Io { doing: "use", path: path.to_owned(), source });
        };
        let root = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let below = match parent.strip_prefix("/") {
            Ok(below) if !below.as_os_str().is_empty() => below,
            _ => Path::new("."),
        };
        let walked = root.and_then(|root| walk(&root, below, flags, Mode::empty()));
        let dir = walked.map_err(|error| failed(path, "reach the directory of", error))?;
        let spot = Self { path: path.to_owned(), dir, name };
        spot.still_at(parent)?;
        Ok(spot)
    }

    /// The walk ended where it was to: what it went through may have been moved meanwhile.
    fn still_at(&self, parent: &Path) -> Result<(), ScopeError> {
        use std::os::fd::AsRawFd as _;
        let link = format!("/proc/self/fd/{}", self.dir.as_raw_fd());
        let found = rustix::fs::readlink(link, Vec::new()).map_err(|error| self.error("look at", error))?;
        if found.as_bytes() == parent.as_os_str().as_encoded_bytes() {
            return Ok(());
        }
        Err(ScopeError::Moved { path: self.path.clone() })
    }

    fn open(&self, doing: &'static str, flags: OFlags, mode: Mode) -> Result<OwnedFd, ScopeError> {
        let opened = walk(&self.dir, Path::new(self.name), flags | OFlags::NOFOLLOW | OFlags::NOCTTY, mode);
        opened.map_err(|error| self.error(doing, error))
    }

    /// A regular file, with at most `links_max` names.
    fn regular(&self, opened: OwnedFd, links_max: Option<u64>) -> Result<File, ScopeError> {
        let found = rustix::fs::fstat(&opened).map_err(|error| self.error("look at", error))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(ScopeError::Special { path: self.path.clone() });
        }
        #[allow(clippy::useless_conversion, reason = "narrower on other processors")]
        let links = u64::from(found.st_nlink);
        let Some(max) = links_max else { return Ok(opened.into()) };
        if links > max {
            return Err(ScopeError::HardLinked { path: self.path.clone(), links });
        }
        // The one name that it has may be another one by now, outside: it is looked for here.
        for _ in 0..LOOKS {
            self.fence();
            let named = rustix::fs::statat(&self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW);
            let named = named.map_err(|error| self.error("look at", error))?;
            if (named.st_dev, named.st_ino) != (found.st_dev, found.st_ino) || named.st_nlink != found.st_nlink {
                return Err(ScopeError::Moved { path: self.path.clone() });
            }
        }
        Ok(opened.into())
    }

    /// Waits until nobody is in the middle of changing the directory: a file that is being unlinked has one name less for
    /// a moment in which that name is still found. Removing what is not there takes the directory's lock and does nothing.
    fn fence(&self) {
        let nothing =
            format!(".pod-{:032x}", u128::from(rpc::Incarnation::random().0) << 64 | u128::from(std::process::id()));
        let _ = rustix::fs::unlinkat(&self.dir, nothing, AtFlags::REMOVEDIR);
    }

    fn error(&self, doing: &'static str, error: Errno) -> ScopeError {
        failed(&self.path, doing, error)
    }
}

fn walk(from: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..WALKS_MAX {
        result = rustix::fs::openat2(from, path, flags | OFlags::CLOEXEC, mode, resolve);
        if !matches!(result, Err(Errno::AGAIN)) {
            break;
        }
    }
    result
}

fn failed(path: &Path, doing: &'static str, error: Errno) -> ScopeError {
    let path = path.to_owned();
    match error {
        Errno::LOOP | Errno::XDEV => ScopeError::Link { path },
        // A pipe that nobody reads, a socket.
        Errno::NXIO => ScopeError::Special { path },
        error => ScopeError::Io { doing, path, source: error.into() },
    }
}

fn what_it_says(has: Permission) -> String {
    match has {
        Permission::Deny => "has no right to it".to_owned(),
        has => format!("allows to {has} it"),
    }
}

#[cfg(test)]
#[path = "confine_tests.rs"]
mod tests;
