//! Directories and files: whose they are, who else may use them, what they lie on, and what nobody needs any more.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::family::nobody_begins_as;
use super::finding::{Check, Finding, Report, Severity};
use super::mend;
use super::pods::Examined;
use crate::id::PodName;
use crate::runtime_dir::{ROOT_VARIABLE, Roots, claimed_by};

/// LIMIT: free space below which the next transactions may fail, in bytes: a few write-ahead logs.
const SPACE_MIN: u64 = 16 << 20;
/// LIMIT: free space below which somebody should make some, in bytes.
const SPACE_LOW: u64 = 256 << 20;

/// File systems on which a lock is not the word of this kernel alone, by the numbers of statfs(2).
const REMOTE: [(u64, &str); 11] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB 2"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x5346_414f, "AFS"),
    (0x4750_4653, "GPFS"),
    (0x7461_636f, "OCFS2"),
];
/// tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

const SAFE: &str = "a pod refuses a directory that others may use, and whoever can write a pod's files can be that pod";

/// Looks at the directories for all pods. False if there is nothing below them to be looked at.
pub(super) fn examine(roots: &Roots, report: &mut Report) -> bool {
    let (runtime, state) = (roots.runtime_root(), roots.state_root());
    let all_there = [roots.moved_to(), Some(runtime), Some(state)].into_iter().flatten().fold(true, |so_far, dir| {
        let there = root(dir, report);
        so_far && there
    });
    if !all_there {
        return std::fs::read_dir(state).is_ok();
    }
    for (dir, keeps) in [(state, true), (runtime, false)] {
        file_system(dir, keeps, report);
    }
    // The longest name shows what becomes of long ones.
    let longest: Option<PodName> = "x".repeat(64).parse().ok();
    let socket = longest.map(|name| roots.pod(&name).socket());
    if let Some(socket) = socket.filter(|socket| !socket.starts_with(runtime)) {
        let what =
            format!("its path is so long that sockets are in `{}`", socket.parent().unwrap_or(&socket).display());
        report.add(
            Finding::at(Check::Root, Severity::Note, runtime, what)
                .because("the address of a socket has 107 bytes at most")
                .remedy("nothing; a shorter root keeps sockets below it"),
        );
    }
    true
}

/// One of the directories. False if it is not there or cannot be used.
fn root(dir: &Path, report: &mut Report) -> bool {
    let found = match dir.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            report.add(
                Finding::at(Check::Root, Severity::Note, dir, "it does not exist yet")
                    .because("the first pod makes it")
                    .remedy(format!("nothing, or correct --root or {ROOT_VARIABLE}")),
            );
            return false;
        }
        Err(error) => {
            report.add(
                Finding::at(Check::Root, Severity::Problem, dir, format!("it cannot be looked at: {error}"))
                    .because("no pod can start")
                    .remedy("make its parent directories accessible, or choose another one with --root"),
            );
            return false;
        }
    };
    let elsewhere = format!("choose another directory with --root or {ROOT_VARIABLE}");
    let refused = if found.is_symlink() {
        Some(("it is a symbolic link".to_owned(), format!("name its target, or {elsewhere}")))
    } else if !found.is_dir() {
        Some(("it is no directory".to_owned(), elsewhere))
    } else if found.uid() != own_uid() {
        Some((format!("it belongs to user {}, we are user {}", found.uid(), own_uid()), elsewhere))
    } else {
        None
    };
    if let Some((what, remedy)) = refused {
        report.add(Finding::at(Check::Root, Severity::Problem, dir, what).because(SAFE).remedy(remedy));
        return false;
    }
    others_may_use(dir, Check::Root, Severity::Problem, report);
    true
}

/// What is ours and may be used by others.
pub(super) fn others_may_use(path: &Path, check: Check, severity: Severity, report: &mut Report) {
    let Ok(found) = path.symlink_metadata() else { return };
    let mode = found.mode() & 0o777;
    if found.is_symlink() || found.uid() != own_uid() {
        let what = if found.is_symlink() { "it is a symbolic link" } else { "it belongs to another user" };
        let finding = Finding::at(check, Severity::Problem, path, what).because(SAFE);
        report.add(finding.remedy("find out who has put it there, and move it away"));
    } else if mode & 0o077 != 0 {
        let mended = if found.is_dir() { 0o700 } else { 0o600 };
        let finding = Finding::at(check, severity, path, format!("others may use it (mode {mode:o})"))
            .because(SAFE)
            .remedy(format!("run `chmod {mended:o} {}`, or mend it with --fix", path.display()));
        report.add_mending(finding, || mend::tighten(path));
    }
}

fn file_system(dir: &Path, keeps: bool, report: &mut Report) {
    let Ok(found) = rustix::fs::statfs(dir) else { return };
    let kind = u64::try_from(found.f_type).unwrap_or(0) & 0xffff_ffff;
    if let Some((_, name)) = REMOTE.iter().find(|(number, _)| *number == kind) {
        report.add(
            Finding::at(Check::FileSystem, Severity::Problem, dir, format!("it lies on {name}"))
                .because(
                    "a life lock proves life and death only where this kernel alone grants it, and so does a store's",
                )
                .remedy(format!("choose a directory on a local disk with --root or {ROOT_VARIABLE}")),
        );
    } else if keeps && IN_MEMORY.contains(&kind) {
        report.add(
            Finding::at(Check::FileSystem, Severity::Note, dir, "it lies in memory")
                .because("stores survive the death of every process, but not of the machine")
                .remedy(format!("choose a directory on a disk with --root or {ROOT_VARIABLE}, if they should")),
        );
    }
    let Ok(space) = rustix::fs::statvfs(dir) else { return };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < SPACE_LOW {
        let severity = if free < SPACE_MIN { Severity::Problem } else { Severity::Warning };
        report.add(
            Finding::at(Check::FileSystem, severity, dir, format!("only {} MiB are free", free >> 20))
                .because("what cannot be committed is not acked: turns fail, and children keep their events")
                .remedy("free some space; what is committed is safe"),
        );
    }
}

/// What is left of dead lives below the runtime root.
pub(super) fn examine_runtime(roots: &Roots, pods: &[Examined], report: &mut Report) {
    for pod in pods {
        let dir = pod.paths.runtime_dir();
        if !dir.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            continue;
        }
        others_may_use(dir, Check::Mode, Severity::Problem, report);
        if pod.is_free() {
            let finding = Finding::at(Check::RuntimeDir, Severity::Warning, dir, "a dead life has left it")
                .because("nothing listens there; the next life of the pod reclaims it")
                .remedy("nothing, or remove it with --fix");
            report.add_mending(finding, || mend::reclaim(&pod.paths, || nobody_begins_as(&pod.name, pods)));
        } else if pod.holder().is_some() && !pod.paths.socket().exists() {
            report.add(
                Finding::at(Check::RuntimeDir, Severity::Warning, dir, "its pod lives and its socket is not there")
                    .because("a pod that is not just starting, or ending, cannot be talked to without it")
                    .remedy("look again; if it stays so, end its process with SIGTERM and start the pod again"),
            );
        }
    }
    let known = |dir: &Path| pods.iter().any(|pod| pod.paths.runtime_dir() == dir);
    let entries = std::fs::read_dir(roots.runtime_root()).into_iter().flatten().flatten();
    for dir in entries.map(|entry| entry.path()).filter(|dir| !known(dir)) {
        let Ok(Some(life)) = claimed_by(&dir) else { continue };
        report.add(
            Finding::at(
                Check::RuntimeDir,
                Severity::Note,
                &dir,
                format!("life {life} has left it, of a pod that is not here"),
            )
            .because("the pod's state was moved or removed; nothing proves that nobody uses it")
            .remedy("remove it when no process of that pod runs"),
        );
    }
}

pub(super) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
