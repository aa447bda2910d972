//! Programs that cannot leave their scope: our own binary, started anew, ties itself down (Landlock) and becomes the
//! program.
//!
//! A process can only give up rights of its own, and only before the program runs; that is why there is a start in
//! between. What the kernel enforces is a list of what is allowed: where a rule allows less below one that allows more,
//! the entries beside it are allowed one by one, as they are at the start, and nothing new can be made next to it.
//! Everybody may read and run what programs need to run at all ([`SYSTEM`]).
//!
//! Asked for by `worker::command`, done in `worker::host` before anything else.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, LandlockStatus, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::rules::Rule;
use super::{Confined, Confinement, Permission, Rules, Scope, ScopeRule};
use crate::id::PodId;

/// The variable by which a process learns that it is a start in between, and from where it gets its orders. The program
/// does not see it.
pub(crate) const CONFINE_VARIABLE: &str = "POD_CONFINE";
/// The only place from where: standard input, which has no bound as arguments and variables have.
pub(crate) const FROM_STDIN: &str = "stdin";
/// LIMIT: what a start in between is told, in bytes: a right that is lent for each of 4 096 children, with long paths.
const ORDERS_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What every program may read and run.
const SYSTEM: [&str; 9] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/proc"];
/// Devices that give nothing away, and may be written, too.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// What a kernel must know so that nothing of a scope is left open: with it, files cannot be cut off either.
const WHOLE: ABI = ABI::V3;
/// LIMIT: entries that are allowed one by one beside what is not; each is a descriptor and a rule for a moment.
const ENTRIES_MAX: usize = 4096;
/// LIMIT: how often a walk is begun again that the kernel gave up because something was renamed in that moment.
const WALKS_MAX: usize = 64;
/// The exit code of a start in between that ended there, as shells have it for what cannot be run.
const NOT_RUN: i32 = 126;

/// What a start in between is told.
#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    level: Confinement,
    rules: Vec<ScopeRule>,
    lent: Vec<(PodId, Vec<ScopeRule>)>,
}

/// One allowance.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    path: PathBuf,
    permission: Permission,
}

/// How far programs are confined when `asked` for, with a scope or without one, on a kernel that can do `best` at best.
///
/// # Errors
/// The kernel cannot do what is required.
pub(crate) fn effective(asked: Confinement, scoped: bool, best: Confinement) -> Result<Confinement, String> {
    match (asked, scoped) {
        (Confinement::Off, _) | (_, false) => Ok(Confinement::Off),
        (Confinement::BestEffort, true) => Ok(best),
        (Confinement::Required, true) if best == Confinement::Required => Ok(best),
        (Confinement::Required, true) => Err(format!(
            "this kernel cannot confine programs as far as `confinement = \"required\"` asks (it needs Landlock {WHOLE}, \
             Linux 6.2 or later, switched on with `lsm=landlock,...`); use such a kernel, or `best-effort`"
        )),
    }
}

/// What this kernel can do at best: `required` if all of a scope can be enforced, `best-effort` if some, `off` if none.
pub fn kernel_confinement() -> Confinement {
    let can = |abi: ABI| {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        ruleset.handle_access(AccessFs::from_all(abi)).and_then(Ruleset::create).is_ok()
    };
    if can(WHOLE) {
        Confinement::Required
    } else if can(ABI::V1) {
        Confinement::BestEffort
    } else {
        Confinement::Off
    }
}

/// The newest version of Landlock that this kernel has and that is made use of here: 6, 5, 3 and less; 0 for none. What newer ones
/// can do besides is not asked of them.
pub fn kernel_landlock_abi() -> u32 {
    let handles = |abi: ABI| {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let ruleset = ruleset.handle_access(AccessFs::from_all(abi));
        let scopes = landlock::Scope::from_all(abi);
        let ruleset = if scopes.is_empty() { ruleset } else { ruleset.and_then(|ruleset| ruleset.scope(scopes)) };
        ruleset.and_then(Ruleset::create).is_ok()
    };
    let known = [(6, ABI::V6), (5, ABI::V5), (3, ABI::V3), (2, ABI::V2), (1, ABI::V1)];
    known.into_iter().find(|(_, abi)| handles(*abi)).map_or(0, |(number, _)| number)
}

/// The version of Landlock that this kernel says it has, whatever is made use of; 0 for none. Blocks for a moment.
pub fn kernel_landlock_version() -> u32 {
    // The library tells it whoever has restricted itself: a thread that does so and nothing else, for which alone it counts.
    let restricted = std::thread::spawn(|| {
        let ruleset = Ruleset::default().handle_access(AccessFs::Execute).and_then(Ruleset::create);
        ruleset.and_then(landlock::RulesetCreated::restrict_self).map(|status| status.landlock)
    });
    match restricted.join() {
        Ok(Ok(LandlockStatus::Available { kernel_abi: Some(newer), .. })) => u32::try_from(newer).unwrap_or(0),
        Ok(Ok(LandlockStatus::Available { effective_abi, .. })) => {
            let known = [ABI::V1, ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6, ABI::V7, ABI::V8, ABI::V9];
            let at = known.iter().position(|abi| *abi == effective_abi);
            at.and_then(|at| u32::try_from(at).ok()).map_or(0, |at| at + 1)
        }
        _ => 0,
    }
}

/// How the programs of a pod are confined, of which `asked` is asked, and which has a scope or not.
pub(crate) fn confined(asked: Confinement, scoped: bool) -> Confined {
    // Asked once: it is the same as long as the machine runs.
    static KERNEL: OnceLock<(Confinement, u32, u32)> = OnceLock::new();
    let ask = || (kernel_confinement(), kernel_landlock_abi(), kernel_landlock_version());
    let (best, landlock_abi, landlock_kernel) = *KERNEL.get_or_init(ask);
    // What is required and not there confines nothing: it is not run.
    let in_force = effective(asked, scoped, best).unwrap_or(Confinement::Off);
    Confined { asked, in_force, scoped, landlock_abi, landlock_kernel }
}

/// What a start in between is to be told so that it keeps to `scope`.
pub(crate) fn orders(scope: &Scope, level: Confinement) -> Option<String> {
    let rules = scope.rules()?.to_wire();
    let lent = scope.lent_to().into_iter().map(|(child, rules)| (child, rules.to_wire())).collect();
    serde_json::to_string(&Orders { level, rules, lent }).ok()
}

/// If this process is a start in between: ties it down and becomes the program that its arguments name, or ends.
#[expect(clippy::disallowed_methods, reason = "this process becomes the program: it starts none")]
pub(crate) fn become_program_if_told() {
    if std::env::var_os(CONFINE_VARIABLE).is_none() {
        return;
    }
    let mut arguments = std::env::args_os().skip(1);
    let why = match (told().and_then(|orders| tie_down(&orders)), arguments.next()) {
        (Ok(()), Some(program)) => {
            let error = Command::new(&program).args(arguments).env_remove(CONFINE_VARIABLE).exec();
            format!(
                "failed to start `{}`: {error}; check that it exists, may be executed and is in the scope",
                program.display()
            )
        }
        (Ok(()), None) => "there is no program to become".to_owned(),
        (Err(why), _) => why,
    };
    eprintln!("pod: {why}");
    std::process::exit(NOT_RUN);
}

/// Reads the orders, whole, and gives standard input up: the program gets none.
fn told() -> Result<Orders, String> {
    let failed = |error: &dyn std::fmt::Display| format!("what the program may do was not told: {error}");
    let mut orders = Vec::new();
    io::stdin().lock().take(ORDERS_BYTES_MAX).read_to_end(&mut orders).map_err(|error| failed(&error))?;
    let nothing = File::open("/dev/null").map_err(|error| failed(&error))?;
    nix::unistd::dup2_stdin(nothing).map_err(|error| failed(&error))?;
    serde_json::from_slice(&orders).map_err(|error| failed(&error))
}

fn tie_down(orders: &Orders) -> Result<(), String> {
    let rules = |rules: &[ScopeRule]| Rules::new(rules).map_err(|error| error.to_string());
    let mut lent = Vec::new();
    for (child, held) in &orders.lent {
        lent.push((child.clone(), rules(held)?));
    }
    let scope = Scope::new(Some(rules(&orders.rules)?), lent);
    let grants = grants(&scope)?;
    let all = AccessFs::from_all(ABI::V5);
    let failed = |error: &dyn std::fmt::Display| format!("the program could not be confined: {error}");
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(|ruleset| ruleset.scope(landlock::Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create);
    let mut ruleset = ruleset.map_err(|error| failed(&error))?;
    let system = system(&scope)?.into_iter().map(|grant| (grant.path, AccessFs::from_read(ABI::V5)));
    let devices = DEVICES.iter().map(|path| (PathBuf::from(path), AccessFs::ReadFile | AccessFs::WriteFile));
    let granted = grants.into_iter().map(|grant| {
        let access = if grant.permission == Permission::Write { all } else { AccessFs::from_read(ABI::V5) };
        (grant.path, access)
    });
    for (path, access) in system.chain(devices).chain(granted) {
        // What is not there cannot be used either.
        let Some((opened, is_dir)) = open(&path) else { continue };
        let access: BitFlags<AccessFs> = if is_dir { access } else { access & AccessFs::from_file(ABI::V5) };
        ruleset = ruleset.add_rule(PathBeneath::new(opened, access)).map_err(|error| failed(&error))?;
    }
    let status = ruleset.restrict_self().map_err(|error| failed(&error))?;
    let is_enforced = status.ruleset != RulesetStatus::NotEnforced && status.no_new_privs;
    if orders.level == Confinement::Required && !is_enforced {
        return Err(failed(&"the kernel enforces nothing"));
    }
    Ok(())
}

/// What is at `path`, and whether that is a directory: the kernel walks through no link, so that what is allowed is what was
/// decided about, whatever a program has made of a part of the path meanwhile.
fn open(path: &Path) -> Option<(OwnedFd, bool)> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut walks = 0..WALKS_MAX;
    let opened = loop {
        match openat2(CWD, path, flags, Mode::empty(), resolve) {
            // Something was renamed in that moment.
            Err(Errno::AGAIN) if walks.next().is_some() => {}
            opened => break opened.ok()?,
        }
    };
    let found = FileType::from_raw_mode(rustix::fs::fstat(&opened).ok()?.st_mode);
    (found != FileType::Symlink).then_some((opened, found == FileType::Directory))
}

/// What every program may read and run, less what is denied of it.
fn system(scope: &Scope) -> Result<Vec<Grant>, String> {
    let denied: Vec<&Rule> =
        scope.rules().into_iter().flat_map(Rules::iter).filter(|rule| rule.permission == Permission::Deny).collect();
    let mut found = Vec::new();
    // They may be links to each other; nobody who is to be confined may change them.
    for path in SYSTEM.iter().filter_map(|path| Path::new(path).canonicalize().ok()) {
        let inside: Vec<Rule> = denied.iter().filter(|rule| rule.target.starts_with(&path)).copied().cloned().collect();
        let whole = Rule { target: path, permission: Permission::Read, recursive: true };
        found.extend(grants(&Scope::of(Rules::from_parts(inside.into_iter().chain([whole]))))?);
    }
    Ok(found)
}

/// What `scope` allows, as a list that has no exceptions.
fn grants(scope: &Scope) -> Result<Vec<Grant>, String> {
    let mut grants = Vec::new();
    let targets = scope.targets();
    let own: Vec<PathBuf> = scope.rules().into_iter().flat_map(Rules::iter).map(|rule| rule.target.clone()).collect();
    for target in &own {
        grant(scope, &targets, target, &mut grants)?;
    }
    Ok(grants)
}

/// Allows what `scope` does at `path` and below it.
fn grant(scope: &Scope, targets: &[PathBuf], path: &Path, grants: &mut Vec<Grant>) -> Result<(), String> {
    if grants.len() > ENTRIES_MAX {
        return Err(format!(
            "more than {ENTRIES_MAX} entries lie beside something in the scope that may be used less (the last is `{}`); \
             put what is denied or lent into a directory of its own",
            path.display()
        ));
    }
    let found = path.symlink_metadata().ok().filter(|found| !found.is_symlink());
    let Some(found) = found else { return Ok(()) };
    if !found.is_dir() {
        allow(path, scope.at(path), grants);
        return Ok(());
    }
    let inside: Vec<&PathBuf> = targets.iter().filter(|target| target.starts_with(path) && *target != path).collect();
    let below = scope.below(path);
    let least = inside.iter().flat_map(|target| [scope.at(target), scope.below(target)]).fold(below, Permission::min);
    // For the directory itself alone there is no word that the kernel has.
    allow(path, least, grants);
    if below == least {
        return Ok(());
    }
    let entries = path.read_dir().map_err(|error| format!("`{}` cannot be looked through: {error}", path.display()))?;
    for entry in entries {
        let entry = entry.map_err(|error| format!("`{}` cannot be looked through: {error}", path.display()))?.path();
        if inside.iter().any(|target| target.starts_with(&entry)) {
            // Deeper ones have their own turn only if they are rules of ours: a lent one is none.
            grant(scope, targets, &entry, grants)?;
        } else {
            allow(&entry, below, grants);
        }
    }
    Ok(())
}

fn allow(path: &Path, permission: Permission, grants: &mut Vec<Grant>) {
    if permission > Permission::Deny && !path.is_symlink() {
        grants.push(Grant { path: path.to_owned(), permission });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Confinement::{BestEffort, Off, Required};

    #[test]
    fn effective_level_is_what_was_asked_for_or_what_the_kernel_can_and_never_less_than_required() {
        for (asked, scoped, best, expected) in [
            (Off, true, Required, Some(Off)),
            (BestEffort, true, Required, Some(Required)),
            (BestEffort, true, BestEffort, Some(BestEffort)),
            (BestEffort, true, Off, Some(Off)),
            (Required, true, Required, Some(Required)),
            (Required, true, BestEffort, None),
            (Required, true, Off, None),
            (Required, false, Off, Some(Off)),
        ] {
            let found = effective(asked, scoped, best);
            assert_eq!(found.clone().ok(), expected, "{asked} on a kernel with {best}");
            assert!(found.is_ok() || found.unwrap_err().contains("best-effort"), "no remedy");
        }
    }

    #[test]
    fn what_has_become_a_link_is_not_allowed_as_what_it_names() {
        let dir = tempfile::TempDir::new().unwrap();
        let at = |path: &str| dir.path().canonicalize().unwrap().join(path);
        std::fs::create_dir_all(at("w/x/y")).unwrap();
        std::fs::create_dir_all(at("outside/y")).unwrap();
        assert!(matches!(open(&at("w/x/y")), Some((_, true))));
        std::fs::rename(at("w/x"), at("w/x0")).unwrap();
        std::os::unix::fs::symlink(at("outside"), at("w/x")).unwrap();
        for path in ["w/x/y", "w/x"] {
            assert!(open(&at(path)).is_none(), "{path} leads outside");
        }
    }

    #[test]
    fn what_is_denied_of_what_every_program_may_read_is_not_read() {
        let usr = Path::new("/usr").canonicalize().unwrap();
        let allowed = |denied: &str| {
            let deny = ScopeRule::below(denied, Permission::Deny);
            let found = system(&Scope::of(Rules::new(&[deny]).unwrap())).unwrap();
            assert!(found.iter().all(|grant| grant.permission == Permission::Read));
            found.into_iter().map(|grant| grant.path).collect::<Vec<_>>()
        };
        assert!(allowed("/nowhere").contains(&usr));
        let less = allowed("/usr/share");
        let covers = |path: &str| less.iter().any(|allowed| Path::new(path).starts_with(allowed));
        assert!(!covers("/usr/share/doc") && !covers("/usr") && covers("/usr/bin/env"), "{less:?}");
        assert!(!allowed("/etc").iter().any(|path| path.starts_with("/etc")));
    }

    #[test]
    fn grants_are_the_scope_without_exceptions() {
        let dir = tempfile::TempDir::new().unwrap();
        let at = |path: &str| dir.path().canonicalize().unwrap().join(path);
        for path in ["a/secret/x", "a/open/y", "a/lent/z", "b"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        std::os::unix::fs::symlink(at("b"), at("a/link")).unwrap();
        let rule = |path: &str, permission| ScopeRule::below(at(path).to_str().unwrap(), permission);
        let found = |scope: &Scope| {
            let mut found = grants(scope).unwrap();
            found.sort_by(|a, b| a.path.cmp(&b.path));
            let shown =
                found.into_iter().map(|grant| (grant.path.strip_prefix(at("")).unwrap().to_owned(), grant.permission));
            shown.map(|(path, permission)| format!("{permission} {}", path.display())).collect::<Vec<_>>()
        };
        let write = rule("a", Permission::Write);
        let scope = Scope::of(Rules::new(std::slice::from_ref(&write)).unwrap());
        assert_eq!(found(&scope), ["write a"]);
        let lent = Rules::new(&[rule("a/lent", Permission::Write)]).unwrap();
        scope.lend(crate::store::fixture::pod("child", 1), lent);
        assert_eq!(found(&scope), ["read a", "read a/lent", "write a/open", "write a/secret"]);
        let scope = Scope::of(Rules::new(&[write, rule("a/secret", Permission::Deny)]).unwrap());
        assert_eq!(found(&scope), ["write a/lent", "write a/open"]);
    }
}
