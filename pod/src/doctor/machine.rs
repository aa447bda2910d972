//! What the kernel can do, and what this user may use up.
//!
//! What a kernel lacks is a finding only if pods need it; everything else is a fact, for whoever wonders why.

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::process::{PidfdFlags, Resource};

use super::finding::{Check, Finding, Report, Severity};
use crate::scope::{Confinement, kernel_confinement, kernel_landlock_abi, kernel_landlock_version};

/// LIMIT: descriptors that a pod with a hundred children and observers may have open.
const DESCRIPTORS_MIN: u64 = 1024;
/// LIMIT: a tree of a few dozen pods, each with its threads and a program.
const PROCESSES_MIN: u64 = 512;

const PODS_NEED: &str = "without it a pod cannot know for certain who it deals with, and does not start children";

pub(super) fn examine(report: &mut Report) {
    let own = rustix::process::getpid();
    let pidfd = rustix::process::pidfd_open(own, PidfdFlags::empty());
    needed(report, "pidfd", pidfd.map(drop), "the death of a child, and whom a signal reaches");
    let openat2 = rustix::fs::openat2(CWD, ".", OFlags::PATH, Mode::empty(), ResolveFlags::BENEATH);
    needed(report, "openat2", openat2.map(drop), "paths that are confined to what a pod may use");
    report.fact(
        "SO_PEERPIDFD",
        there(peer_pidfd()),
        "the very process that has connected, and not one with its number",
    );
    let landlock = match (kernel_landlock_version(), kernel_landlock_abi()) {
        (0, 0) => "not there".to_owned(),
        (kernel, used) if kernel == used => format!("there, ABI {kernel}"),
        (kernel, used) => format!("there, ABI {kernel}, of which {used} is made use of"),
    };
    report.fact("Landlock", landlock, "confining the programs that a pod runs");
    processes(report);
    confinement(report);
    report.fact("user namespaces", user_namespaces(), "confining programs without privileges");

    limit(report, "open files", Resource::Nofile, DESCRIPTORS_MIN, "ulimit -n");
    limit(report, "processes", Resource::Nproc, PROCESSES_MIN, "ulimit -u");
    let pids = pids_max();
    report.fact(
        "pids of the cgroup",
        pids.map_or("no limit".to_owned(), |max| max.to_string()),
        "processes and threads of all pods",
    );
    if let Some(max) = pids.filter(|max| *max < PROCESSES_MIN) {
        too_low(
            report,
            "pids of the cgroup",
            max,
            PROCESSES_MIN,
            "raise pids.max of the cgroup, or TasksMax of the unit",
        );
    }
}

/// Whether it is shown who has started a process, up to the first: a pod decides by that what whoever connects may ask.
fn processes(report: &mut Report) {
    let shown = crate::admission::is_own_line_shown();
    report.fact("line of processes", there(shown.is_ok()), "whose program it is that asks a pod for something");
    if let Err(error) = shown {
        let what = format!("it does not show who has started a process: {error}");
        report.add(
            Finding::new(Check::Kernel, Severity::Warning, "/proc", what)
                .because("as long as any pod has a scope, whoever asks a pod may only look, and no root starts")
                .remedy("mount /proc without `hidepid`, or so that this user's group sees all processes (`gid=`)"),
        );
    }
}

/// How far programs of a pod with a scope are confined here, whatever is asked for.
fn confinement(report: &mut Report) {
    let best = kernel_confinement();
    report.fact("confinement", best.word(), "what `best-effort` comes to for the programs of a pod with a scope");
    let what = match best {
        Confinement::Required => return,
        Confinement::BestEffort => "it confines programs in part: they can cut files off, for one",
        Confinement::Off => "it does not confine programs",
    };
    report.add(
        Finding::new(Check::Kernel, Severity::Note, "the kernel", what)
            .because("programs of a pod with a scope may do more than it says; with `confinement = \"required\"` its turns fail")
            .remedy("use Linux 6.2 or later with Landlock switched on (`lsm=landlock,...`)"),
    );
}

fn needed(report: &mut Report, name: &'static str, asked: rustix::io::Result<()>, why: &'static str) {
    report.fact(name, there(asked.is_ok()), why);
    if let Err(error) = asked {
        report.add(
            Finding::new(Check::Kernel, Severity::Problem, "the kernel", format!("there is no {name} ({error})"))
                .because(PODS_NEED)
                .remedy("use Linux 5.6 or later, and a sandbox that allows the call"),
        );
    }
}

fn there(is: bool) -> String {
    if is { "there" } else { "not there" }.to_owned()
}

fn peer_pidfd() -> bool {
    let pair = std::os::unix::net::UnixStream::pair();
    pair.is_ok_and(|(here, _there)| nix::sys::socket::getsockopt(&here, nix::sys::socket::sockopt::PeerPidfd).is_ok())
}

fn user_namespaces() -> String {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let off = read("/proc/sys/user/max_user_namespaces").is_none_or(|max| max == "0")
        || read("/proc/sys/kernel/unprivileged_userns_clone").is_some_and(|on| on == "0");
    let restricted = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").is_some_and(|on| on == "1");
    match (off, restricted) {
        (true, _) => "not there".to_owned(),
        (false, true) => "restricted by AppArmor".to_owned(),
        (false, false) => "there".to_owned(),
    }
}

fn limit(report: &mut Report, name: &'static str, resource: Resource, min: u64, raise: &str) {
    let found = rustix::process::getrlimit(resource).current;
    report.fact(name, found.map_or("no limit".to_owned(), |max| max.to_string()), "children, programs and observers");
    if let Some(max) = found.filter(|max| *max < min) {
        too_low(report, name, max, min, &format!("raise it with `{raise} {min}`"));
    }
}

fn too_low(report: &mut Report, name: &'static str, max: u64, min: u64, remedy: &str) {
    report.add(
        Finding::new(Check::Limit, Severity::Warning, name, format!("at most {max} are allowed"))
            .because("a larger tree cannot start its children, and says so for each")
            .remedy(format!("{remedy}; {min} are enough for most")),
    );
}

/// The tightest limit of this process's cgroup and those above it.
fn pids_max() -> Option<u64> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let root = std::path::Path::new("/sys/fs/cgroup");
    let own = root.join(own.trim_start_matches('/'));
    let limits = own.ancestors().take_while(|dir| dir.starts_with(root));
    limits.filter_map(|dir| std::fs::read_to_string(dir.join("pids.max")).ok()?.trim().parse().ok()).min()
}
