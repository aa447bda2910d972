//! Whether ours reached what `plan` asks of it.

use serde::Serialize;

use crate::contender::Role;
use crate::plan::{ALLOCATIONS_MAX, GOALS, Goal, IDLE_KIB_MAX, SYSCALLS_MAX, WATCHING_SYSCALLS_MAX};
use crate::report::{Results, Series, Spread, short};

/// One goal, and how far ours came.
#[derive(Serialize)]
pub(crate) struct Verdict {
    pub(crate) workload: String,
    pub(crate) goal: String,
    pub(crate) measured: String,
    /// `None`: nothing to compare with was measured.
    pub(crate) reached: Option<bool>,
}

impl Verdict {
    pub(crate) fn word(&self) -> &'static str {
        match self.reached {
            Some(true) => "PASS",
            Some(false) => "MISS",
            None => "----",
        }
    }
}

/// All goals whose workloads were measured.
pub(crate) fn verdicts(results: &Results) -> Vec<Verdict> {
    let timed = GOALS.iter().filter_map(|(workload, goal)| {
        results.of(workload).next()?;
        Some(judge(results, workload, goal))
    });
    timed.chain(counted(results)).collect()
}

fn judge(results: &Results, workload: &str, goal: &Goal) -> Verdict {
    let ours = results.with_role(workload, Role::Ours);
    let peer = results.fastest_peer(workload);
    let against = |other: Option<&Series>| Some(ours?.rate_against(other?));
    let at_least = |goal: String, figure: Option<Spread>, least: f64, of: &str| Verdict {
        workload: workload.to_owned(),
        goal,
        measured: figure.map_or_else(|| "not measured".to_owned(), |figure| format!("{} x {of}", spread(figure))),
        reached: figure.map(|figure| figure.median >= least),
    };
    let peer_name = peer.map_or("a peer", |peer| peer.contender);
    match goal {
        Goal::FloorTimeAtMost(most) => {
            let rate = against(results.with_role(workload, Role::Floor));
            let time = rate.map(|rate| Spread { median: 1.0 / rate.median, min: 1.0 / rate.max, max: 1.0 / rate.min });
            Verdict {
                reached: time.map(|time| time.median <= *most),
                ..at_least(format!("time at most {most} x the tokio floor"), time, 0.0, "the floor's time")
            }
        }
        Goal::FloorRateAtLeast(least) => at_least(
            format!("at least {:.0} % of the tokio floor", least * 100.0),
            against(results.with_role(workload, Role::Floor)),
            *least,
            "the floor",
        ),
        Goal::PeerRateAtLeast(least) => {
            let goal = match least {
                1.0 => "faster than every peer".to_owned(),
                times => format!("at least {times} x the fastest peer"),
            };
            at_least(goal, against(peer), *least, peer_name)
        }
        Goal::CeilingRateAtLeast(least) => at_least(
            format!("at least {:.0} % of raw batch", least * 100.0),
            against(results.with_role(workload, Role::Ceiling)),
            *least,
            "raw batch",
        ),
        Goal::RateAtLeastOf(other) => {
            let theirs = results.with_role(other, Role::Ours);
            // The two were not measured in the same rounds: 3 % is what neighbours differ by.
            at_least(format!("no lower than at {other} (within 3 %)"), against(theirs), 0.97, "that")
        }
        Goal::SpinningTimeAtMost(most) => spinning(results, workload, *most),
        Goal::TailBelowPeers => {
            let tail = |series: &Series| Spread::of(&series.p99_micros).median;
            let peers = results.of(workload).filter(|series| series.role == Role::Peer && !series.micros.is_empty());
            let lowest = peers.min_by(|a, b| tail(a).total_cmp(&tail(b)));
            let both = ours.zip(lowest).map(|(ours, lowest)| (tail(ours), tail(lowest), lowest.contender));
            Verdict {
                workload: workload.to_owned(),
                goal: "p99 below every peer's".to_owned(),
                measured: both.map_or_else(
                    || "not measured".to_owned(),
                    |(ours, lowest, name)| format!("{} us, {name} {} us", short(ours), short(lowest)),
                ),
                reached: both.map(|(ours, lowest, _)| ours < lowest),
            }
        }
    }
}

/// Ours against the raw ping-pong, both sides spinning, and what that costs.
fn spinning(results: &Results, workload: &str, most: f64) -> Verdict {
    let time = |series: &Series| Spread::of(&series.micros).median;
    let cpu = |role: Role| {
        results.with_role(workload, role).map_or(f64::NAN, |series| {
            Spread::of(&series.cpu_client_micros).median + Spread::of(&series.cpu_server_micros).median
        })
    };
    let verdict = |measured: String, reached: Option<bool>| Verdict {
        workload: workload.to_owned(),
        goal: format!("spinning, within {most} x of the raw spinning ping-pong"),
        measured,
        reached,
    };
    let of = |role: Role| results.with_role(workload, role);
    let (Some(raw), Some(ours), Some(floor)) = (of(Role::Spinning), of(Role::OursSpinning), of(Role::Floor)) else {
        return verdict("not measured".to_owned(), None);
    };
    // Two that spin on one processor wait for each other's time slices: then neither shows what spinning is worth.
    if time(raw) >= time(floor) {
        let why = format!("not to be had: no two processors were free (raw spinning {} us)", short(time(raw)));
        return verdict(why, None);
    }
    let times = raw.rate_against(ours);
    let measured = format!(
        "{} x its time, {} us and {} us; CPU of both sides {} us a call, raw {}, ours without spin {}",
        spread(times),
        short(time(ours)),
        short(time(raw)),
        short(cpu(Role::OursSpinning)),
        short(cpu(Role::Spinning)),
        short(cpu(Role::Ours))
    );
    verdict(measured, Some(times.median <= most))
}

fn counted(results: &Results) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    // A payload that is its owner's is an allocation, whoever carries it: the framework's own show without one.
    let judged = |count: &str| if count == "allocations" { Role::OursWords } else { Role::Ours };
    for ours in results.per_call.iter().filter(|count| count.role == judged(&count.count)) {
        let most = match ours.count.as_str() {
            "allocations" => Some(ALLOCATIONS_MAX),
            _ => SYSCALLS_MAX.iter().find(|(in_flight, _)| *in_flight == ours.in_flight).map(|(_, most)| *most),
        };
        let (Some(most), both) = (most, ours.client.zip(ours.server)) else { continue };
        verdicts.push(Verdict {
            workload: format!("{} in flight", ours.in_flight),
            goal: match ours.count.as_str() {
                "allocations" => "no allocation of the framework per call and side".to_owned(),
                count => format!("{count} per call and side at most {most}"),
            },
            measured: both.map_or_else(
                || "not measured".to_owned(),
                |(client, server)| format!("client {client:.3}, server {server:.3}"),
            ),
            reached: both.map(|(client, server)| client <= most && server <= most),
        });
    }
    let system_calls = |role: Role, in_flight: usize| {
        let mut counts = results.per_call.iter().filter(|one| one.count == "syscalls" && one.in_flight == in_flight);
        let one = counts.find(|one| one.role == role)?;
        one.client.zip(one.server)
    };
    for (in_flight, _) in SYSCALLS_MAX {
        let both = system_calls(Role::OursWatching, in_flight).zip(system_calls(Role::Ours, in_flight));
        let Some((watching, not)) = both else { continue };
        let more = (watching.0 - not.0, watching.1 - not.1);
        verdicts.push(Verdict {
            workload: format!("{in_flight} in flight"),
            goal: "watching a call's stages makes no system call".to_owned(),
            measured: format!("client {:+.3}, server {:+.3} a call", more.0, more.1),
            reached: Some(more.0 <= WATCHING_SYSCALLS_MAX && more.1 <= WATCHING_SYSCALLS_MAX),
        });
    }
    for ours in results.idle.iter().filter(|idle| idle.role == Role::Ours) {
        let after = [("small calls", ours.kib_after_small), ("a large call", ours.kib_after_large)];
        for ((after, kib), most) in after.into_iter().zip(IDLE_KIB_MAX) {
            verdicts.push(Verdict {
                workload: format!("{} idle connections", ours.connections),
                goal: format!("at most {most} KiB each after {after}"),
                measured: kib.map_or_else(|| "not measured".to_owned(), |kib| format!("{kib:.1} KiB")),
                reached: kib.map(|kib| kib <= most),
            });
        }
    }
    verdicts
}

fn spread(figure: Spread) -> String {
    format!("{} ({}..{})", short(figure.median), short(figure.min), short(figure.max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::CONTENDERS;
    use crate::plan;

    /// A round of each role's time, in microseconds.
    fn results(times: &[(Role, f64)]) -> Results {
        let mut results = Results::new(true);
        let workloads = plan::workloads(true);
        let workload = workloads.iter().find(|workload| workload.id == "64B-1-free").unwrap();
        for (role, micros) in times {
            let contender = CONTENDERS.iter().find(|contender| contender.role() == *role).unwrap();
            let mut series = Series::new(workload, *contender);
            series.micros.push(*micros);
            results.series.push(series);
        }
        results
    }

    #[test]
    fn spinning_is_judged_only_where_two_processors_were_free() {
        let reached = |ours: f64, raw: f64| {
            let times = [(Role::Spinning, raw), (Role::OursSpinning, ours), (Role::Floor, 13.0)];
            spinning(&results(&times), "64B-1-free", 2.0).reached
        };
        assert_eq!(reached(5.0, 2.6), Some(true));
        assert_eq!(reached(5.3, 2.6), Some(false));
        assert_eq!(reached(16.0, 7_500.0), None);
        assert_eq!(spinning(&results(&[(Role::Spinning, 2.6)]), "64B-1-free", 2.0).reached, None);
    }
}
