//! Where a pod's files are: its socket below the runtime root, what it must keep below the state root.
//!
//! A directory that is not ours alone is refused, never mended: somebody else may have put it there. Nothing of a pod
//! is made before its name and both roots are known to be good.
//!
//! Used by `spawn` and `discovery`, and by the command line for `--root`.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::id::{Incarnation, PodId, PodName};

/// The environment variable that moves both roots.
pub const ROOT_VARIABLE: &str = "PODS_ROOT";

/// LIMIT: the longest socket path, in bytes: `sun_path` has 108, the last of which ends it.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

const MARKER: &str = "life";

/// The two directories below which all pods of a user have their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    runtime: PathBuf,
    state: PathBuf,
    moved_to: Option<PathBuf>,
}

/// Where one pod's files are. Naming them makes none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPaths {
    name: PodName,
    runtime: PathBuf,
    state: PathBuf,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirError {
    /// It is not ours alone.
    #[error("directory `{}` is not safe to use: {reason}; {remedy}", path.display())]
    Unsafe {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// Its name cannot be used.
    #[error("directory `{}` cannot be used: {reason}; choose another one with --root or {ROOT_VARIABLE}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// No directory is configured and none can be derived.
    #[error("neither XDG_STATE_HOME nor HOME is set; choose a directory with --root or {ROOT_VARIABLE}")]
    NoHome,
    /// A file operation failed.
    #[error("failed to {doing} directory `{}`{}", path.display(), remedy(source))]
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

impl Roots {
    /// Both roots below `dir`, which is made if its parent exists.
    ///
    /// # Errors
    /// If a directory is not ours alone, or cannot be made.
    pub fn at(dir: &Path) -> Result<Self, DirError> {
        Self::below(dir)?.made()
    }

    /// The roots that `flag`, or else the environment, says.
    ///
    /// # Errors
    /// If a directory is not ours alone, or cannot be made.
    pub fn resolve(flag: Option<&Path>) -> Result<Self, DirError> {
        Self::named(flag)?.made()
    }

    /// The same, as they would be: nothing is made and nothing is looked at.
    ///
    /// # Errors
    /// `NoHome` if nothing says where they are.
    pub fn named(flag: Option<&Path>) -> Result<Self, DirError> {
        Self::named_from(flag, |variable| std::env::var_os(variable).filter(|value| !value.is_empty()))
    }

    /// The same, for a process with other variables than ours.
    pub(crate) fn named_from(
        flag: Option<&Path>,
        variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<Self, DirError> {
        if let Some(dir) = flag.map(Path::to_owned).or_else(|| variable(ROOT_VARIABLE).map(PathBuf::from)) {
            return Self::below(&dir);
        }
        // The XDG specification says that relative paths are to be ignored.
        let directory = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = match directory("XDG_STATE_HOME") {
            Some(state) => state,
            None => directory("HOME").ok_or(DirError::NoHome)?.join(".local/state"),
        };
        let runtime = match directory("XDG_RUNTIME_DIR") {
            Some(runtime) => runtime.join("pods"),
            None => std::env::temp_dir().join(format!("pods-{}", uid())),
        };
        Ok(Self { runtime, state: state.join("pods"), moved_to: None })
    }

    fn below(dir: &Path) -> Result<Self, DirError> {
        let dir = std::path::absolute(dir).map_err(|e| io_error("resolve", dir, e))?;
        Ok(Self { runtime: dir.join("run"), state: dir.join("state"), moved_to: Some(dir) })
    }

    fn made(self) -> Result<Self, DirError> {
        match (&self.moved_to, self.state.parent()) {
            (Some(dir), _) => make_private(dir)?,
            (None, Some(parent)) => fs::create_dir_all(parent).map_err(|e| io_error("make", parent, e))?,
            (None, None) => {}
        }
        make_private(&self.runtime)?;
        make_private(&self.state)?;
        Ok(self)
    }

    /// Below which sockets are, and what else goes with a process.
    pub fn runtime_root(&self) -> &Path {
        &self.runtime
    }

    /// Below which stores are, and what else must be kept.
    pub fn state_root(&self) -> &Path {
        &self.state
    }

    /// The files of the pod `name`.
    pub fn pod(&self, name: &PodName) -> PodPaths {
        let state = self.state.join(name.as_str());
        let plain = self.runtime.join(name.as_str());
        let fits = |dir: &Path| dir.join("pod.sock").as_os_str().len() <= SOCKET_PATH_BYTES_MAX;
        let runtime = if fits(&plain) {
            plain
        } else {
            // A name that does not fit a socket's address is replaced by its hash; a root that leaves no room even for
            // that is, too, below the temporary directory.
            let short = self.runtime.join(format!("{:016x}", fnv1a(name.as_str().as_bytes())));
            if fits(&short) { short } else { self.elsewhere(&plain) }
        };
        PodPaths { name: name.clone(), runtime, state }
    }

    fn elsewhere(&self, plain: &Path) -> PathBuf {
        let hash = fnv1a(plain.as_os_str().as_encoded_bytes());
        PathBuf::from(format!("/tmp/pods-{}", uid())).join(format!("{hash:016x}"))
    }

    /// The names that have a state directory, whether they live or not.
    ///
    /// # Errors
    /// If the state root cannot be read.
    pub fn pods(&self) -> Result<Vec<PodName>, DirError> {
        let error = |e| io_error("read", &self.state, e);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.state).map_err(error)? {
            let entry = entry.map_err(error)?;
            let name = entry.file_name().to_str().and_then(|name| name.parse::<PodName>().ok());
            if let Some(name) = name.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// What all pods below these roots share. Its name is none that a pod can have.
    pub fn registry(&self) -> PathBuf {
        self.state.join("_registry.db")
    }

    /// What a program must have in its environment to find the same roots; nothing, if it finds them anyway.
    pub fn variable(&self) -> Option<(&'static str, &Path)> {
        self.moved_to.as_deref().map(|dir| (ROOT_VARIABLE, dir))
    }

    /// The directory that both roots were moved to, if they were.
    pub fn moved_to(&self) -> Option<&Path> {
        self.moved_to.as_deref()
    }
}

impl PodPaths {
    /// Whose they are.
    pub fn name(&self) -> &PodName {
        &self.name
    }

    /// Where it listens; never longer than a socket's address may be.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("pod.sock")
    }

    /// Its store.
    pub fn store(&self) -> PathBuf {
        self.state.join("store.db")
    }

    /// Its life lock.
    pub fn life_lock(&self) -> PathBuf {
        self.state.join("life.lock")
    }

    /// What its lives have written to standard output and error, each behind a line that names it. At most a little over 1 MiB;
    /// what stood there before is in `stderr.log.1`.
    pub fn stderr(&self) -> PathBuf {
        self.state.join("stderr.log")
    }

    /// What it is configured to be.
    pub fn manifest(&self) -> PathBuf {
        self.state.join("manifest.toml")
    }

    /// What it must keep.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// What goes with its process.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime
    }

    /// Makes the state directory, which holds the life lock, and nothing else.
    ///
    /// # Errors
    /// If it is not ours alone, or cannot be made.
    pub fn make_state_dir(&self) -> Result<(), DirError> {
        make_private(&self.state)
    }

    /// Makes both directories and marks the runtime directory as that of the life `pod`, so that nothing that is left
    /// to be removed of an older life removes it. By the holder of the life lock alone.
    ///
    /// # Errors
    /// If a directory is not ours alone, or cannot be made.
    pub fn claim(&self, pod: &PodId) -> Result<(), DirError> {
        self.make_state_dir()?;
        if let Some(parent) = self.runtime.parent() {
            make_private(parent)?;
        }
        make_private(&self.runtime)?;
        let (marker, draft) = (self.runtime.join(MARKER), self.runtime.join("life.new"));
        let write = || {
            fs::write(&draft, pod.incarnation.to_string())?;
            fs::rename(&draft, &marker)
        };
        write().map_err(|e| io_error("mark", &self.runtime, e))
    }
}

/// Which life has marked `dir` as its own; none, if there is no such directory or mark.
pub(crate) fn claimed_by(dir: &Path) -> io::Result<Option<Incarnation>> {
    match fs::read_to_string(dir.join(MARKER)) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a runtime directory with the files in it. The mark goes last: what is left half done is begun again.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() != MARKER {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(dir.join(MARKER))?;
    fs::remove_dir(dir)
}

/// Makes `dir` for us alone, or finds that it is so.
fn make_private(dir: &Path) -> Result<(), DirError> {
    if dir.to_str().is_none() {
        return Err(DirError::Unusable { path: dir.to_owned(), reason: "its name is not UTF-8" });
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_unsafe(dir),
        Err(error) => Err(io_error("make", dir, error)),
    }
}

fn refuse_unsafe(dir: &Path) -> Result<(), DirError> {
    let found = dir.symlink_metadata().map_err(|e| io_error("inspect", dir, e))?;
    let mode = found.mode() & 0o777;
    let elsewhere = || format!("choose another directory with --root or {ROOT_VARIABLE}");
    let (reason, remedy) = if found.is_symlink() {
        ("it is a symbolic link".to_owned(), format!("remove the link, or name its target: {}", elsewhere()))
    } else if !found.is_dir() {
        ("it is no directory".to_owned(), elsewhere())
    } else if found.uid() != uid() {
        (format!("it belongs to user {}, we are user {}", found.uid(), uid()), elsewhere())
    } else if mode & 0o077 != 0 {
        (format!("others may use it (mode {mode:o})"), format!("run `chmod 700 {}`", dir.display()))
    } else {
        return Ok(());
    };
    Err(DirError::Unsafe { path: dir.to_owned(), reason, remedy })
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// What to do about a directory whose parent is missing.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; make the directory that it is to be in, or choose another one with --root",
        _ => "",
    }
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> DirError {
    DirError::Io { doing, path: path.to_owned(), source }
}

/// FNV-1a, 64 bits: short names that stay the same from build to build. A collision is refused by the life lock's
/// pod, which finds another's socket in use; it takes some four billion pods to expect one.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn name(text: &str) -> PodName {
        text.parse().unwrap()
    }

    #[track_caller]
    fn refused(result: Result<Roots, DirError>, words: &[&str]) {
        let text = result.unwrap_err().to_string();
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
    }

    #[test]
    fn root_moves_both_and_is_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::at(&dir.path().join("r")).unwrap();
        let paths = roots.pod(&name("a"));
        assert_eq!(paths.socket(), dir.path().join("r/run/a/pod.sock"));
        assert_eq!(paths.store(), dir.path().join("r/state/a/store.db"));
        for dir in [paths.runtime_dir().parent().unwrap(), paths.state_dir().parent().unwrap()] {
            assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        }
        assert!(!paths.runtime_dir().exists() && !paths.state_dir().exists(), "naming made something");
        assert_eq!(roots.variable().unwrap().1, dir.path().join("r"));
    }

    #[test]
    fn without_an_override_the_desktop_directories_are_used() {
        let dir = tempfile::tempdir().unwrap();
        let (run, home) = (dir.path().join("xdg-run"), dir.path().join("home"));
        fs::create_dir(&run).unwrap();
        let variable = |name: &str| match name {
            "XDG_RUNTIME_DIR" => Some(run.clone().into_os_string()),
            "HOME" => Some(home.clone().into_os_string()),
            _ => None,
        };
        let paths = Roots::named_from(None, variable).unwrap().made().unwrap().pod(&name("a"));
        assert_eq!(paths.socket(), run.join("pods/a/pod.sock"));
        assert_eq!(paths.store(), home.join(".local/state/pods/a/store.db"));
        let error = Roots::named_from(None, |_| None).unwrap_err().to_string();
        assert!(error.contains("HOME") && error.contains("--root"), "{error}");
    }

    #[test]
    fn directories_that_are_not_ours_alone_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o750)).unwrap();
        refused(Roots::at(&open), &["/open", "mode 750", "chmod 700"]);
        assert_eq!(fs::read_dir(&open).unwrap().count(), 0, "something was made in it");

        let link = dir.path().join("link");
        symlink(&open, &link).unwrap();
        refused(Roots::at(&link), &["/link", "symbolic link", "--root"]);

        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        refused(Roots::at(&file), &["/file", "no directory"]);

        refused(Roots::at(&dir.path().join("no/such")), &["failed to make", "no/such"]);
    }

    #[test]
    fn directory_of_another_user_is_refused() {
        // Only root can make one; for everybody else `/` is one.
        let text = refuse_unsafe(Path::new("/proc/1")).map_or_else(|e| e.to_string(), |()| String::new());
        if uid() != 0 {
            assert!(text.contains("belongs to user 0"), "{text}");
        } else {
            let dir = tempfile::tempdir().unwrap();
            std::os::unix::fs::chown(dir.path(), Some(12345), None).unwrap();
            refused(Roots::at(dir.path()), &["belongs to user 12345", "we are user 0"]);
        }
    }

    #[test]
    fn socket_path_fits_its_address_whatever_the_names() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().to_owned();
        for depth in 0..12 {
            deep = deep.join(format!("quite-a-long-name-{depth}"));
            fs::create_dir(&deep).unwrap();
            fs::set_permissions(&deep, fs::Permissions::from_mode(0o700)).unwrap();
            let roots = Roots::at(&deep).unwrap();
            let (long, other) = (roots.pod(&name(&"x".repeat(64))), roots.pod(&name(&"y".repeat(64))));
            assert!(long.socket().as_os_str().len() <= SOCKET_PATH_BYTES_MAX, "{}", long.socket().display());
            assert_ne!(long.socket(), other.socket());
            assert_eq!(long, roots.pod(&name(&"x".repeat(64))), "the same pod is elsewhere the second time");
        }
    }

    #[test]
    fn claimed_directory_knows_its_life_and_can_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::at(&dir.path().join("r")).unwrap();
        let paths = roots.pod(&name("a"));
        assert_eq!(claimed_by(paths.runtime_dir()).unwrap(), None);
        paths.claim(&PodId::new(name("a"), Incarnation(3))).unwrap();
        paths.claim(&PodId::new(name("a"), Incarnation(4))).unwrap();
        assert_eq!(claimed_by(paths.runtime_dir()).unwrap(), Some(Incarnation(4)));
        assert_eq!(roots.pods().unwrap(), [name("a")]);
        remove(paths.runtime_dir()).unwrap();
        assert!(!paths.runtime_dir().exists());
    }
}
