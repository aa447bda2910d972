//! Many ends: lives one after another, beside each other, below each other, and in one instant.
//!
//! The parent lives in this process, so that what it leaves open or unreaped is seen here. Each measurement ends its pods
//! and compares: a terminal event for each life, no descriptors that grow with them, no process that nobody has reaped.
//!
//! Used by the binary `ends`, and small by `it`.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::{self, FuturesUnordered};
use pod::manifest::Limits;
use pod::store::HistoryItem;
use pod::{Child, PodController, PodHandle, PodId, SpawnPod, Terminal, WorkResult, WorkerSpec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Figures;
use crate::world::{GROVE, Step, World};

/// LIMIT: descriptors that are kept and grow with no number of lives. SQLite keeps the one of a connection that is closed while
/// another one of the process has the file locked, and uses it again for the next.
const KEPT_MAX: usize = 2;

/// LIMIT: children that are started at once: more of them wait for the processors, and not for what is measured.
const STARTS_MAX: usize = 8;
/// LIMIT: names that lives one after another take in turn: as many stores as that are left on disk.
const NAMES: usize = 16;
/// LIMIT: processes whose memory is looked at: a look walks all of one's pages.
const LOOKED_AT_MAX: usize = 32;
/// Between two lines that say how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Nothing that is waited for takes longer on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// How far a measurement is, on standard error, now and then.
struct Progress {
    began: Instant,
    told: Instant,
}

impl Progress {
    fn new() -> Self {
        Self { began: Instant::now(), told: Instant::now() }
    }

    fn at(&mut self, what: &str, count: usize, of: usize) {
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            eprintln!("{:>4} s: {count} of {of} {what}", self.began.elapsed().as_secs());
        }
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Ends {
    /// Lives that were begun.
    pub lives: u64,
    /// From the wish for a child until it takes work.
    pub ready: Figures,
    /// From the wish for the first of a chain until the last takes work.
    pub grown: Figures,
    /// From the death of a child's process until its end is committed at its parent.
    pub committed: Figures,
    /// The memory of a pod with its share of what is shared (PSS), in KiB: the mean of those that were looked at.
    pub pss_kib: u64,
    /// Descriptors of this process before the first child, and after the last.
    pub descriptors: (usize, usize),
    /// The most that were open in between.
    pub descriptors_most: usize,
    /// Children of this process that are dead and not reaped.
    pub zombies: usize,
    /// The parent's store per entry of its history, in bytes.
    pub bytes_per_entry: u64,
    /// What is not as it should be.
    pub wrong: Vec<String>,
}

/// `lives` short lives one after another: each is started, does a work, and is told to end.
///
/// # Errors
/// What could not be done.
///
/// # Panics
/// If there is no room for a world.
pub async fn sequential(program: &Path, lives: usize) -> Result<Ends, String> {
    let mut progress = Progress::new();
    let (world, boss, mut ends) = begin(program, 64).await?;
    for life in 0..lives {
        let child = started(&boss, &format!("c{:02}", life % NAMES), &mut ends).await?;
        let work = child.run("[{\"say\":\"done\"}]").await.map_err(|error| error.to_string())?;
        if work.settled().await != WorkResult::Finished {
            ends.wrong.push(format!("life {life} did not finish its work"));
        }
        let dead = deaths_of(&boss, [&child])?;
        let terminal = within(child.stop(Duration::from_secs(60))).await?.map_err(|error| error.to_string())?;
        ended(&mut ends, since(dead).await, &terminal, &Terminal::ShutDown);
        ends.descriptors_most = ends.descriptors_most.max(descriptors());
        progress.at("lives", life + 1, lives);
    }
    finish(&world, &boss, ends).await
}

/// `children` of one parent that live at once, and are ended one by one.
///
/// # Errors
/// What could not be done.
///
/// # Panics
/// If there is no room for a world.
pub async fn beside(program: &Path, children: usize) -> Result<Ends, String> {
    let mut progress = Progress::new();
    let (world, boss, mut ends) = begin(program, children).await?;
    let all = grow(&boss, children, &mut ends, &mut progress).await?;
    ends.pss_kib = memory(&boss);
    ends.descriptors_most = descriptors();
    for (at, child) in all.iter().enumerate() {
        let dead = deaths_of(&boss, [child])?;
        let terminal = within(child.stop(Duration::from_secs(60))).await?.map_err(|error| error.to_string())?;
        ended(&mut ends, since(dead).await, &terminal, &Terminal::ShutDown);
        progress.at("ended", at + 1, children);
    }
    finish(&world, &boss, ends).await
}

/// `children` of one parent that are killed in the same instant.
///
/// # Errors
/// What could not be done.
///
/// # Panics
/// If there is no room for a world.
pub async fn burst(program: &Path, children: usize) -> Result<Ends, String> {
    let mut progress = Progress::new();
    let (world, boss, mut ends) = begin(program, children).await?;
    let all = grow(&boss, children, &mut ends, &mut progress).await?;
    ends.pss_kib = memory(&boss);
    ends.descriptors_most = descriptors();
    let pids = pids_of(&boss);
    let pidfds: Vec<_> = all.iter().filter_map(|child| pidfd_of(&pids, child)).collect();
    let deaths = deaths_of(&boss, &all)?;
    for pidfd in &pidfds {
        pidfd_send_signal(pidfd, Signal::KILL).map_err(|error| error.to_string())?;
    }
    drop(pidfds);
    let expected = Terminal::Lost { reason: pod::LostReason::Killed { signal: 9 } };
    let mut terminals: FuturesUnordered<_> = (all.iter().enumerate())
        .map(|(at, child)| async move { (at, child.terminal().await, Instant::now()) })
        .collect();
    let mut committed = Vec::new();
    while let Some((at, terminal, now)) = within(terminals.next()).await? {
        let terminal = terminal.map_err(|error| error.to_string())?;
        if terminal != expected {
            ends.wrong.push(format!("{terminal:?} instead of {expected:?}"));
        }
        committed.push((at, now));
        progress.at("ended", committed.len(), children);
    }
    drop(terminals);
    let died = deaths.await.map_err(|error| error.to_string())?;
    for (at, now) in committed {
        ends.committed.add(now.saturating_duration_since(died[at]));
    }
    finish(&world, &boss, ends).await
}

/// A chain of `depth` pods, each the child of the last, that is grown and then ended from above, `rounds` times. What is shown of
/// starts and ends is the topmost one's; `grown` is how long all of it takes.
///
/// # Errors
/// What could not be done.
///
/// # Panics
/// If there is no room for a world.
pub async fn below(program: &Path, depth: usize, rounds: usize) -> Result<Ends, String> {
    let mut progress = Progress::new();
    let (world, boss, mut ends) = begin(program, 4).await?;
    for round in 0..rounds {
        // Names of its own: a pod that lives again has first to be told what it has missed.
        let name = |level: usize| format!("d{round:02}-{level:02}").parse::<pod::PodName>().expect("a name");
        let mut steps = Vec::new();
        for level in (2..=depth).rev() {
            steps = vec![Step::Grow(name(level)), Step::GiveAndWait(name(level), steps)];
        }
        let input = serde_json::to_string(&steps).map_err(|error| error.to_string())?;
        let began = Instant::now();
        let top = started(&boss, name(1).as_str(), &mut ends).await?;
        let work = top.run(input).await.map_err(|error| error.to_string())?;
        within(work.settled()).await?;
        ends.grown.add(began.elapsed());
        ends.lives += depth as u64 - 1;
        let living = world.processes().into_iter().filter(|pid| *pid != std::process::id()).collect::<Vec<_>>();
        if living.len() < depth {
            ends.wrong.push(format!("{} of {depth} pods live when all are grown", living.len()));
        }
        ends.pss_kib = mean(living.into_iter().filter_map(pss));
        ends.descriptors_most = ends.descriptors_most.max(descriptors());
        let dead = deaths_of(&boss, [&top])?;
        let terminal = within(top.stop(Duration::from_secs(120))).await?.map_err(|error| error.to_string())?;
        ended(&mut ends, since(dead).await, &terminal, &Terminal::ShutDown);
        for level in 1..depth {
            let terminals = world.history(name(level).as_str()).terminals(name(level + 1).as_str());
            if terminals != [Terminal::ShutDown] {
                ends.wrong.push(format!("level {level} has for its child {terminals:?}"));
            }
        }
        progress.at("rounds", round + 1, rounds);
    }
    finish(&world, &boss, ends).await
}

async fn begin(program: &Path, children: usize) -> Result<(World, PodHandle, Ends), String> {
    let world = World::new(program);
    let limits = Limits { children: u32::try_from(children.max(1)).unwrap_or(u32::MAX), ..Limits::default() };
    let options = world.options("boss", WorkerSpec::ledger()).limits(limits);
    let boss = PodController::spawn(options).await.map_err(|error| error.to_string())?;
    // One comes and goes first: what the first one makes the process open for good is no leak.
    let mut ends = Ends::default();
    let first = started(&boss, "first", &mut ends).await?;
    within(first.stop(Duration::from_secs(60))).await?.map_err(|error| error.to_string())?;
    let ends = Ends { lives: 1, descriptors: (descriptors(), 0), ..Ends::default() };
    Ok((world, boss, ends))
}

async fn finish(world: &World, boss: &PodHandle, mut ends: Ends) -> Result<Ends, String> {
    let settled = boss.settled();
    within(settled).await?.map_err(|error| error.to_string())?;
    // Connections of the dead are closed when their ends are read.
    let until = Instant::now() + Duration::from_secs(10);
    while descriptors() > ends.descriptors.0 + KEPT_MAX && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ends.descriptors.1 = descriptors();
    ends.zombies = zombies();
    let history = world.history("boss").0;
    let count = |is: fn(&HistoryItem) -> bool| history.iter().filter(|row| is(&row.item)).count();
    let (spawned, over) = (
        count(|item| matches!(item, HistoryItem::ChildSpawned { .. })),
        count(|item| matches!(item, HistoryItem::ChildTerminal { .. })),
    );
    if spawned != over {
        ends.wrong.push(format!("{spawned} lives have {over} terminal events"));
    }
    if ends.descriptors.1 > ends.descriptors.0 + KEPT_MAX {
        ends.wrong.push(format!("{} descriptors were open, and {} are left", ends.descriptors.0, ends.descriptors.1));
    }
    if ends.zombies > 0 {
        ends.wrong.push(format!("{} processes are not reaped", ends.zombies));
    }
    within(boss.shutdown()).await?;
    // Everything is in the one file when its owner has closed it.
    let store = std::fs::metadata(world.roots().pod(&boss.id().name).store()).map_or(0, |file| file.len());
    ends.bytes_per_entry = store / (history.len() as u64).max(1);
    if !world.processes().iter().all(|pid| *pid == std::process::id()) {
        ends.wrong.push("processes are left".to_owned());
    }
    Ok(ends)
}

async fn grow(
    boss: &PodHandle,
    children: usize,
    ends: &mut Ends,
    progress: &mut Progress,
) -> Result<Vec<Child>, String> {
    let starts = (0..children).map(|number| {
        let spawn = SpawnPod::new(format!("c{number:04}").parse().expect("a name"), WorkerSpec::of_kind(GROVE));
        async move {
            let began = Instant::now();
            boss.spawn_pod(spawn).await.map(|child| (child, began.elapsed())).map_err(|error| error.to_string())
        }
    });
    let mut all = Vec::new();
    let mut started = stream::iter(starts).buffer_unordered(STARTS_MAX);
    while let Some(child) = started.next().await {
        let (child, took) = child?;
        ends.ready.add(took);
        ends.lives += 1;
        all.push(child);
        progress.at("ready", all.len(), children);
    }
    Ok(all)
}

async fn started(boss: &PodHandle, name: &str, ends: &mut Ends) -> Result<Child, String> {
    let began = Instant::now();
    let spawn = SpawnPod::new(name.parse().expect("a name"), WorkerSpec::of_kind(GROVE));
    let child = boss.spawn_pod(spawn).await.map_err(|error| error.to_string())?;
    ends.ready.add(began.elapsed());
    ends.lives += 1;
    Ok(child)
}

/// When the processes of `children` are dead, in their order. On a thread of its own: the runtime is busy with what is measured.
fn deaths_of<'c>(
    boss: &PodHandle,
    children: impl IntoIterator<Item = &'c Child>,
) -> Result<tokio::sync::oneshot::Receiver<Vec<Instant>>, String> {
    let missing = |child: &Child| format!("{} has no process", child.id());
    let pids = pids_of(boss);
    let pidfds = children.into_iter().map(|child| pidfd_of(&pids, child).ok_or_else(|| missing(child)));
    let pidfds = pidfds.collect::<Result<Vec<_>, _>>()?;
    let (told, deaths) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut died = vec![None; pidfds.len()];
        while died.contains(&None) {
            let living: Vec<usize> = (0..died.len()).filter(|at| died[*at].is_none()).collect();
            let mut looks: Vec<_> = living.iter().map(|at| PollFd::new(&pidfds[*at], PollFlags::IN)).collect();
            let _ = poll(&mut looks, None);
            let now = Instant::now();
            for (at, _) in living.iter().zip(&looks).filter(|(_, look)| !look.revents().is_empty()) {
                died[*at] = Some(now);
            }
        }
        // Whoever asked may have given up.
        let _ = told.send(died.into_iter().flatten().collect());
    });
    Ok(deaths)
}

/// The processes of all children. They are children of this process: until they are reaped their numbers are their own.
fn pids_of(boss: &PodHandle) -> HashMap<PodId, u32> {
    boss.children().into_iter().filter_map(|line| Some((line.pod, line.pid?))).collect()
}

fn pidfd_of(pids: &HashMap<PodId, u32>, child: &Child) -> Option<std::os::fd::OwnedFd> {
    let pid = pids.get(child.id())?;
    pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()
}

/// How long ago one died.
async fn since(dead: tokio::sync::oneshot::Receiver<Vec<Instant>>) -> Option<Duration> {
    let now = Instant::now();
    dead.await.ok().and_then(|died| died.first().map(|at| now.saturating_duration_since(*at)))
}

fn ended(ends: &mut Ends, took: Option<Duration>, terminal: &Terminal, expected: &Terminal) {
    took.into_iter().for_each(|took| ends.committed.add(took));
    if terminal != expected {
        ends.wrong.push(format!("{terminal:?} instead of {expected:?}"));
    }
}

fn memory(boss: &PodHandle) -> u64 {
    let living = boss.children().into_iter().filter(|line| line.terminal.is_none()).filter_map(|line| line.pid);
    mean(living.take(LOOKED_AT_MAX).filter_map(pss))
}

fn mean(values: impl Iterator<Item = u64>) -> u64 {
    let (sum, count) = values.fold((0, 0), |(sum, count), value| (sum + value, count + 1));
    sum / u64::max(count, 1)
}

/// In KiB.
fn pss(pid: u32) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?.split_whitespace().next()?.parse().ok()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Dead children of this process that nobody has waited for.
fn zombies() -> usize {
    let own = std::process::id().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    // Behind the name, which may have any character in it: the state, then the parent.
    let is_one = |stat: &String| {
        stat.rsplit_once(") ").is_some_and(|(_, rest)| {
            let mut fields = rest.split(' ');
            fields.next() == Some("Z") && fields.next() == Some(own.as_str())
        })
    };
    stats.filter(is_one).count()
}

async fn within<T>(future: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, future).await.map_err(|_| format!("not within {PATIENCE:?}"))
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |figures: &Figures| {
            let of = |per_mille| figures.quantile(per_mille).unwrap_or_default().as_secs_f64() * 1000.0;
            format!("p50 {:.1} ms, p99 {:.1} ms (of {})", of(500), of(990), figures.count())
        };
        writeln!(f, "{} lives", self.lives)?;
        writeln!(f, "spawn to ready:           {}", millis(&self.ready))?;
        if self.grown.count() > 0 {
            writeln!(f, "all of them grown:        {}", millis(&self.grown))?;
        }
        writeln!(f, "end to parent's commit:   {}", millis(&self.committed))?;
        if self.pss_kib > 0 {
            writeln!(f, "memory per pod (PSS):     {} KiB", self.pss_kib)?;
        }
        let (before, after) = self.descriptors;
        writeln!(f, "descriptors:              {before} before, {} at most, {after} after", self.descriptors_most)?;
        writeln!(f, "zombies:                  {}", self.zombies)?;
        write!(f, "parent's store:           {} bytes per entry", self.bytes_per_entry)
    }
}
