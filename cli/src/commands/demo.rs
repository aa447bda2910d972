//! `pod demo`: the code of `pod run` over a canned tree in which something goes wrong in each way, on purpose.
//!
//! What it says it has shown it has found in committed histories, after every process of the tree was gone.

use std::os::unix::fs::PermissionsExt;

use pod::id::PodName;
use pod::manifest::Limits;
use pod::protocol::{LostReason, TurnResult, WorkResult};
use pod::runtime_dir::Roots;
use pod::scope::Confinement;
use pod::store::Terminal;
use pod::{Durability, Lifetime, Restart, WorkerSpec};

use crate::account::{Account, End, Work};
use crate::args::{DemoArgs, Global};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::Follower;
use crate::output::Output;
use crate::results::{self, Row, Rows};
use crate::starting::PlannedChild;
use crate::tree::{self, Plan};

/// It says something and then takes its time, so that it is in the middle of its work when it is killed.
const VICTIM: &str = "
runs = [[{ say = \"half of it is done\" }, { sleep_ms = 600000 }]]
";

/// It delegates a part of its work to a child of its own, and is done when that is.
const DELEGATOR: &str = "
runs = [[
    { spawn = { name = \"grandchild\", worker = { kind = \"command\", command = \"echo a part of the whole\" } } },
    { run_and_wait = { child = \"grandchild\", input = \"a part of the whole\" } },
]]
";

pub(crate) async fn demo(args: &DemoArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    // Held until the end: dropping it removes everything.
    let (_temporary, roots) = match &global.root {
        Some(_) => (None, super::roots(global)?),
        None => {
            let failed = |error| Failure::internal("no temporary directory can be made").because(error);
            let private = std::fs::Permissions::from_mode(0o700);
            let dir = tempfile::Builder::new().prefix("pod-demo-").permissions(private).tempdir().map_err(failed)?;
            let roots = Roots::at(dir.path()).map_err(|error| Failure::from_error(Exit::Internal, error))?;
            (Some(dir), roots)
        }
    };
    let plan = plan(args)?;
    output
        .line("a parent with four children: one does its work, one fails, one is killed with SIGKILL in the middle")?;
    output.line("of its work, and one delegates to a child of its own")?;
    output.line("")?;
    let finished = tree::run(&plan, &roots, output).await?;
    let account = &finished.follower.account;
    let Rows { rows, unknown } = results::rows(account, &finished.seen, &roots);
    results::show(&rows, output)?;
    let mut missing = finished.troubles;
    missing.extend(unknown);
    missing.extend(results::defects(account, &finished.seen, true));
    missing.extend(expected().iter().filter_map(|expected| expected.missing(account, &rows)));
    missing.extend(below(&roots));
    report(&missing, account, &rows, global, output)
}

/// Says what was shown, or what is missing.
fn report(
    missing: &[String],
    account: &Account,
    rows: &[Row],
    global: &Global,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let works = rows.iter().filter(|row| row.work.is_some()).count();
    let mut lives: Vec<_> = rows.iter().map(|row| &row.pod).collect();
    lives.dedup();
    let lives = lives.len();
    let events: u64 = account.lives.iter().filter_map(|life| account.seen_of(life)).map(|seen| seen.count()).sum();
    let proved = format!(
        "Proved, from what parents have committed: each of {works} works and each of {lives} lives of children came to exactly\n\
         one end, whether it finished, failed or was killed in mid-work, and all {events} events that the parent was told\n\
         stand in its history once and without a gap."
    );
    let exit = if missing.is_empty() { Exit::Ok } else { Exit::WorkFailed };
    output.line("")?;
    if missing.is_empty() {
        output.line(&proved)?;
    } else {
        output.line("Not as it must be:")?;
        for missing in missing {
            output.line(format!("- {missing}"))?;
        }
    }
    if let Some(root) = &global.root {
        output.line(format!("`pod log demo --root {}` shows it all.", root.display()))?;
    }
    output.record(&serde_json::json!({
        "type": "summary",
        "pod": "demo",
        "works": works,
        "lives": lives,
        "events": events,
        "missing": missing,
        "proved": missing.is_empty().then(|| proved.replace('\n', " ")),
        "exit": exit.code(),
    }))?;
    Ok(exit)
}

fn plan(args: &DemoArgs) -> Result<Plan, Failure> {
    let name = |text: &str| text.parse::<PodName>().map_err(|error| Failure::from_error(Exit::Internal, error));
    let command = |child: &str, command: &str| {
        Ok::<_, Failure>(PlannedChild {
            name: name(child)?,
            worker: WorkerSpec::command(command),
            input: command.to_owned(),
            scope: Vec::new(),
            lifetime: Lifetime::Tied,
            restart: Restart::default(),
        })
    };
    let scripted = |child: &str, script: &str, input: &str| {
        let worker = WorkerSpec::scripted(script, child).map_err(|error| Failure::from_error(Exit::Internal, error))?;
        Ok::<_, Failure>(PlannedChild {
            name: name(child)?,
            worker,
            input: input.to_owned(),
            scope: Vec::new(),
            lifetime: Lifetime::Tied,
            restart: Restart::default(),
        })
    };
    Ok(Plan {
        name: name("demo")?,
        worker: WorkerSpec::ledger(),
        durability: Durability::default(),
        limits: Limits::default(),
        scope: Vec::new(),
        confinement: Confinement::default(),
        children: vec![
            command("finishes", "echo all is well")?,
            command("fails", "echo the disk is on fire >&2; exit 3")?,
            scripted("killed", VICTIM, "a long work")?,
            scripted("delegates", DELEGATOR, "the whole")?,
        ],
        victim: Some(name("killed")?),
        timeout: Some(args.timeout),
        keep: false,
    })
}

/// How one child must have ended.
struct Expected {
    child: &'static str,
    end: fn(&End) -> bool,
    result: WorkResult,
    life: Terminal,
}

fn expected() -> [Expected; 4] {
    let finished = |end: &End| *end == End::TurnEnded(TurnResult::Finished);
    let killed = LostReason::Killed { signal: 9 };
    [
        Expected { child: "finishes", end: finished, result: WorkResult::Finished, life: Terminal::ShutDown },
        Expected {
            child: "fails",
            end: |end| matches!(end, End::Errored(message) if message.contains("code 3") && message.contains("on fire")),
            result: WorkResult::Failed,
            life: Terminal::ShutDown,
        },
        Expected {
            child: "killed",
            end: |end| *end == End::Lost(LostReason::Killed { signal: 9 }),
            result: WorkResult::Lost,
            life: Terminal::Lost { reason: killed },
        },
        Expected { child: "delegates", end: finished, result: WorkResult::Finished, life: Terminal::ShutDown },
    ]
}

impl Expected {
    /// What is not as it must be.
    fn missing(&self, account: &Account, rows: &[Row]) -> Option<String> {
        let child = self.child;
        let lives: Vec<_> = account.lives.iter().filter(|life| life.pod.name.as_str() == child).collect();
        let [life] = lives.as_slice() else {
            return Some(format!("`{child}` must have lived once, and lived {} times", lives.len()));
        };
        if life.terminal.as_ref() != Some(&self.life) {
            return Some(format!("the life of `{child}` must have ended as {:?}, not {:?}", self.life, life.terminal));
        }
        let works: Vec<_> = account.works_of(&life.pod).collect();
        let [work] = works.as_slice() else {
            return Some(format!("`{child}` must have had one work, and had {}", works.len()));
        };
        if work.result != Some(self.result) || !work.end.as_ref().is_some_and(self.end) {
            return Some(format!("the work of `{child}` must have ended as {}: {work:?}", self.result));
        }
        let reported = u32::from(self.result != WorkResult::Lost);
        if work.ends < reported || (child != "delegates" && work.ends > reported) {
            return Some(format!("{} turns of `{child}` were reported, {reported} must have been", work.ends));
        }
        // The table must show what the history says.
        let shown = rows.iter().any(|row| row.pod == life.pod && row.outcome == Some(self.result));
        (!shown).then(|| format!("`{child}` is missing in the table"))
    }
}

/// What must stand in the history of the child that has a child of its own.
fn below(roots: &Roots) -> Vec<String> {
    let read = || {
        let delegator: PodName = "delegates".parse().map_err(|error| Failure::from_error(Exit::Internal, error))?;
        let mut follower = Follower::open(&roots.pod(&delegator))?;
        follower.catch_up(|_, _| Ok(()))?;
        Ok::<_, Failure>(follower.account)
    };
    // A child that has never written anything says all the less about its own child.
    let Ok(account) = read() else { return vec!["`delegates` must have a history".to_owned()] };
    let mut missing = results::defects(&account, &[], true);
    let ended = |work: &&Work| work.child.name.as_str() == "grandchild" && work.result == Some(WorkResult::Finished);
    if account.works.iter().filter(ended).count() != 1 {
        missing.push("the work of `grandchild` must have finished once in the history of `delegates`".to_owned());
    }
    let grandchild = account.lives.iter().find(|life| life.pod.name.as_str() == "grandchild");
    if grandchild.and_then(|life| life.terminal.as_ref()) != Some(&Terminal::ShutDown) {
        missing.push("the life of `grandchild` must have ended with its own word".to_owned());
    }
    missing
}
