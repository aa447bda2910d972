//! `pod run`: a parent, its children, one work each, and how they ended.
//!
//! Everything that was typed is checked before anything is made.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use pod::id::PodName;
use pod::life_lock::Life;
use pod::manifest::{ChildEntry, Limits, Manifest, ManifestError, PodSection, ScopeEntry};
use pod::protocol::RUN_INPUT_BYTES_MAX;
use pod::runtime_dir::Roots;
use pod::scope::{Confinement, ScopeRule};
use pod::{Durability, Lifetime, Restart, StoreReader, WorkerSpec, Workers};

use crate::args::{Global, NamedChild, RunArgs};
use crate::commands::{life_of, roots};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::results::{self, Rows};
use crate::starting::PlannedChild;
use crate::tree::{self, Plan};

/// LIMIT: the size of a script, in bytes, as that of a manifest.
const SCRIPT_BYTES_MAX: u64 = 64 * 1024;
/// What the parent is called if nobody says otherwise.
const DEFAULT_NAME: &str = "run";

pub(crate) async fn run(args: &RunArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let plan = plan(args)?;
    let roots = roots(global)?;
    check_names(&plan, &roots)?;
    let finished = tree::run(&plan, &roots, output).await?;
    let account = &finished.follower.account;
    let Rows { rows, unknown } = results::rows(account, &finished.seen, &roots);
    if !plan.keep {
        results::show(&rows, output)?;
    }
    let mut problems = finished.troubles;
    problems.extend(results::defects(account, &finished.seen, true));
    problems.extend(results::failures(account));
    problems.extend(results::failures_below(&rows));
    problems.extend(unknown);
    let exit = if problems.is_empty() { Exit::Ok } else { Exit::WorkFailed };
    output.line("")?;
    for problem in &problems {
        output.line(format!("- {problem}"))?;
    }
    let finished = account.works.iter().filter(|work| work.result.is_some_and(|r| r.is_success())).count();
    let (works, name) = (account.works.len(), &plan.name);
    output.line(format!("{finished} of {works} works finished; `pod log {name}` shows what `{name}` has committed"))?;
    output.record(&serde_json::json!({
        "type": "summary",
        "pod": name,
        "works": works,
        "finished": finished,
        "problems": problems,
        "exit": exit.code(),
    }))?;
    Ok(exit)
}

/// What is to be run, checked as far as that is possible without making anything.
fn plan(args: &RunArgs) -> Result<Plan, Failure> {
    let Manifest { pod, worker, limits, scope, child } = parent(args)?;
    let PodSection { name, durability, confinement, .. } = pod;
    let mut children = Vec::new();
    for NamedChild { name, what } in &args.child {
        if what.len() > RUN_INPUT_BYTES_MAX {
            let bytes = what.len();
            return Err(Failure::usage(format!(
                "the command of child `{name}` has {bytes} bytes, at most {RUN_INPUT_BYTES_MAX} are allowed; put it in a file"
            )));
        }
        let (worker, kept) = (WorkerSpec::command(what), kept_as(&child, name)?);
        children.push(PlannedChild {
            name: name.clone(),
            worker,
            input: what.clone(),
            scope: rules_of(&scope, Some(name)),
            lifetime: kept.0,
            restart: kept.1,
        });
    }
    for NamedChild { name, what } in &args.child_script {
        let text = read_script(name, Path::new(what))?;
        let worker = WorkerSpec::scripted(&text, what).map_err(|error| bad_child(name, error))?;
        let kept = kept_as(&child, name)?;
        children.push(PlannedChild {
            name: name.clone(),
            worker,
            input: what.clone(),
            scope: rules_of(&scope, Some(name)),
            lifetime: kept.0,
            restart: kept.1,
        });
    }
    let mut names = BTreeSet::new();
    for PlannedChild { name: child, worker, .. } in &children {
        if *child == name {
            return Err(Failure::usage(format!(
                "child `{child}` has its parent's name; rename it, or the parent with --name"
            )));
        }
        if !names.insert(child) {
            return Err(Failure::usage(format!("two children are called `{child}`; give each a name of its own")));
        }
        Workers::builtin().make(worker).map_err(|error| bad_child(child, error))?;
    }
    if let Some(nobody) = scope.iter().filter_map(|entry| entry.child.as_ref()).find(|child| !names.contains(child)) {
        return Err(Failure::usage(format!(
            "the manifest gives a scope to child `{nobody}`, and there is none; name it with --child or --child-script, or \
             correct the entry"
        )));
    }
    if let Some(nobody) = child.iter().map(|entry| &entry.name).find(|child| !names.contains(child)) {
        return Err(Failure::usage(format!(
            "the manifest says how child `{nobody}` is kept, and there is none; name it with --child or --child-script, or \
             correct the entry"
        )));
    }
    let scope = rules_of(&scope, None);
    let (victim, timeout, keep) = (None, args.timeout, args.keep);
    Ok(Plan { name, worker, durability, limits, scope, confinement, children, victim, timeout, keep })
}

/// How the manifest says that `child` is kept.
fn kept_as(entries: &[ChildEntry], child: &PodName) -> Result<(Lifetime, Restart), Failure> {
    let Some(entry) = entries.iter().find(|entry| entry.name == *child) else {
        return Ok((Lifetime::Tied, Restart::default()));
    };
    let policy =
        entry.restart.policy().map_err(|why| Failure::usage(format!("child `{child}` cannot be kept: {why}")))?;
    Ok((entry.lifetime, policy))
}

/// What the manifest gives to `child`, or to the pod itself.
fn rules_of(scope: &[ScopeEntry], child: Option<&PodName>) -> Vec<ScopeRule> {
    scope.iter().filter(|entry| entry.child.as_ref() == child).map(ScopeEntry::rule).collect()
}

fn parent(args: &RunArgs) -> Result<Manifest, Failure> {
    if let Some(path) = &args.manifest {
        let manifest = Manifest::read(path).map_err(|error| Failure::from_error(Exit::Usage, error))?;
        Workers::builtin()
            .make(&manifest.worker)
            .map_err(|error| Failure::usage(format!("manifest `{}` cannot be used", path.display())).because(error))?;
        return Ok(manifest);
    }
    let name = match &args.name {
        Some(name) => name.clone(),
        None => DEFAULT_NAME.parse().map_err(|error| Failure::from_error(Exit::Internal, error))?,
    };
    let pod =
        PodSection { name, durability: Durability::default(), directory: None, confinement: Confinement::default() };
    Ok(Manifest { pod, worker: WorkerSpec::ledger(), limits: Limits::default(), scope: Vec::new(), child: Vec::new() })
}

pub(crate) fn read_script(child: &PodName, path: &Path) -> Result<String, Failure> {
    let failure = || Failure::usage(format!("the script `{}` of child `{child}` cannot be read", path.display()));
    let file = std::fs::File::open(path).map_err(|error| failure().because(error))?;
    let mut text = String::new();
    file.take(SCRIPT_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| failure().because(error))?;
    if text.len() as u64 > SCRIPT_BYTES_MAX {
        let shown = path.display();
        return Err(Failure::usage(format!(
            "the script `{shown}` of child `{child}` has more than {SCRIPT_BYTES_MAX} bytes; split it into children"
        )));
    }
    Ok(text)
}

fn bad_child(child: &PodName, error: ManifestError) -> Failure {
    Failure::usage(format!("child `{child}` cannot be started")).because(error)
}

/// Names that somebody else has are found before anything is made of ours.
fn check_names(plan: &Plan, roots: &Roots) -> Result<(), Failure> {
    let name = &plan.name;
    let paths = roots.pod(name);
    if let Life::Held(holder) = life_of(&paths)? {
        let remedy = format!("stop it with `pod stop {name}`, or choose another name with --name");
        return Err(Failure::new(Exit::Held, format!("pod `{name}` runs already, as {holder}; {remedy}")));
    }
    for child in &plan.children {
        let child_paths = roots.pod(&child.name);
        if !child_paths.store().exists() {
            continue;
        }
        // The events of a pod are those of its store, and its parent has their beginning: a store that another parent
        // knows would begin in the middle here.
        let known = paths.store().exists()
            && StoreReader::open(paths.store())
                .and_then(|reader| reader.look(|reads| reads.child_by_name(&child.name)))
                .map_err(|error| Failure::from_error(Exit::Internal, error))?
                .is_some();
        if !known {
            let (child, dir) = (&child.name, child_paths.state_dir().display());
            return Err(Failure::usage(format!(
                "there is a pod `{child}` already, and it is no child of `{name}` (its files are in `{dir}`); \
                 choose another name for the child, or another --root"
            )));
        }
    }
    Ok(())
}
