//! Many ends: lives one after another, beside each other, below each other, and in one instant.
//!
//! The parent lives in this process, so that what it leaves open or unreaped is seen here. Each measurement ends its pods
//! and compares: a terminal event for each life, no descriptors that grow with them, no process that nobody has reaped.
//!
//! Used by the binary `ends`, and small by `it`.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream;
use pod::manifest::Limits;
use pod::store::HistoryItem;
use pod::{Child, PodController, PodHandle, SpawnPod, Terminal, WorkResult, WorkerSpec};
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
/// Nothing that is waited for takes longer on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// What was measured.
#[derive(Debug, Default)]
pub struct Ends {
    /// Lives that were begun.
    pub lives: u64,
    /// From the wish for a child until it takes work.
    pub ready: Figures,
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
    let (world, boss, mut ends) = begin(program, 64).await?;
    for life in 0..lives {
        let child = started(&boss, &format!("c{:02}", life % NAMES), &mut ends).await?;
        let work = child.run("[{\"say\":\"done\"}]").await.map_err(|error| error.to_string())?;
        if work.settled().await != WorkResult::Finished {
            ends.wrong.push(format!("life {life} did not finish its work"));
        }
        let dead = death_of(&boss, &child)?;
        let terminal = within(child.stop(Duration::from_secs(60))).await?.map_err(|error| error.to_string())?;
        ended(&mut ends, dead.await, &terminal, &Terminal::ShutDown);
        ends.descriptors_most = ends.descriptors_most.max(descriptors());
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
    let (world, boss, mut ends) = begin(program, children).await?;
    let all = grow(&boss, children, &mut ends).await?;
    ends.pss_kib = memory(&boss);
    ends.descriptors_most = descriptors();
    for child in &all {
        let dead = death_of(&boss, child)?;
        let terminal = within(child.stop(Duration::from_secs(60))).await?.map_err(|error| error.to_string())?;
        ended(&mut ends, dead.await, &terminal, &Terminal::ShutDown);
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
    let (world, boss, mut ends) = begin(program, children).await?;
    let all = grow(&boss, children, &mut ends).await?;
    ends.pss_kib = memory(&boss);
    ends.descriptors_most = descriptors();
    let pidfds: Vec<_> = all.iter().filter_map(|child| pidfd_of(&boss, child)).collect();
    let deaths = all.iter().map(|child| death_of(&boss, child)).collect::<Result<Vec<_>, _>>()?;
    for pidfd in &pidfds {
        pidfd_send_signal(pidfd, Signal::KILL).map_err(|error| error.to_string())?;
    }
    drop(pidfds);
    let expected = Terminal::Lost { reason: pod::LostReason::Killed { signal: 9 } };
    let terminals = futures::future::join_all(all.iter().zip(deaths).map(|(child, dead)| async move {
        let terminal = child.terminal().await;
        (terminal, Instant::now(), dead.await)
    }));
    for (terminal, at, dead) in within(terminals).await? {
        let terminal = terminal.map_err(|error| error.to_string())?;
        ends.committed.add(at.saturating_duration_since(dead.map_err(|error| error.to_string())?));
        if terminal != expected {
            ends.wrong.push(format!("{terminal:?} instead of {expected:?}"));
        }
    }
    finish(&world, &boss, ends).await
}

/// A chain of `depth` pods, each the child of the last, that is grown and then ended from above.
///
/// # Errors
/// What could not be done.
///
/// # Panics
/// If there is no room for a world.
pub async fn below(program: &Path, depth: usize) -> Result<Ends, String> {
    let (world, boss, mut ends) = begin(program, 4).await?;
    let name = |level: usize| format!("d{level:02}").parse::<pod::PodName>().expect("a name");
    let mut steps = Vec::new();
    for level in (2..=depth).rev() {
        steps = vec![Step::Grow(name(level)), Step::GiveAndWait(name(level), steps)];
    }
    let began = Instant::now();
    let top = started(&boss, name(1).as_str(), &mut ends).await?;
    let input = serde_json::to_string(&steps).map_err(|error| error.to_string())?;
    let work = top.run(input).await.map_err(|error| error.to_string())?;
    within(work.settled()).await?;
    ends.ready.add(began.elapsed());
    ends.lives += depth as u64 - 1;
    let living = world.processes().into_iter().filter(|pid| *pid != std::process::id()).collect::<Vec<_>>();
    if living.len() < depth {
        ends.wrong.push(format!("{} of {depth} pods live when all are grown", living.len()));
    }
    ends.pss_kib = mean(living.into_iter().filter_map(pss));
    ends.descriptors_most = descriptors();
    let dead = death_of(&boss, &top)?;
    let terminal = within(top.stop(Duration::from_secs(120))).await?.map_err(|error| error.to_string())?;
    ended(&mut ends, dead.await, &terminal, &Terminal::ShutDown);
    for level in 1..depth {
        let terminals = world.history(name(level).as_str()).terminals(name(level + 1).as_str());
        if terminals != [Terminal::ShutDown] {
            ends.wrong.push(format!("level {} has for its child {terminals:?}", level));
        }
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

async fn grow(boss: &PodHandle, children: usize, ends: &mut Ends) -> Result<Vec<Child>, String> {
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

/// When the process of `child` is dead.
fn death_of(boss: &PodHandle, child: &Child) -> Result<tokio::task::JoinHandle<Instant>, String> {
    let pidfd = pidfd_of(boss, child).ok_or_else(|| format!("{} has no process", child.id()))?;
    Ok(tokio::task::spawn_blocking(move || {
        let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None);
        Instant::now()
    }))
}

fn pidfd_of(boss: &PodHandle, child: &Child) -> Option<std::os::fd::OwnedFd> {
    let line = boss.children().into_iter().find(|line| line.pod == *child.id())?;
    // It is a child of this process that has not been reaped: the number is its own.
    pidfd_open(Pid::from_raw(line.pid?.cast_signed())?, PidfdFlags::empty()).ok()
}

fn ended(ends: &mut Ends, dead: Result<Instant, tokio::task::JoinError>, terminal: &Terminal, expected: &Terminal) {
    if let Ok(dead) = dead {
        ends.committed.add(dead.elapsed());
    }
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
