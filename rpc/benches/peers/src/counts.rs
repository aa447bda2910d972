//! What is counted rather than timed: allocations, system calls, memory.
//!
//! Everything per call is the difference between a longer and a shorter lap, so that what happens once is no part of it.

use std::path::Path;

use crate::contender::{Contender, Failure, Load, Role, Shape, is_special};
use crate::measure::lap::Until;
use crate::plan::{Effort, IDLE_PAYLOADS, Placement};
use crate::process::{self, Job, Order, Pair, Process, Side};
use crate::report::{Idle, PerCall, Results};

const ALLOCATIONS: &str = "allocations";
const SYSCALLS: &str = "syscalls";
const MEMORY: &str = "memory";
pub(crate) const COUNTS: [&str; 3] = [ALLOCATIONS, SYSCALLS, MEMORY];

/// Calls in flight for which allocations and system calls are counted.
const IN_FLIGHT: [usize; 2] = [1, 64];

/// Whether those of that role are counted: spinning is asking the kernel all the time; of watching only the system
/// calls are of interest, and of words only the allocations.
pub(crate) fn counts(count: &str, role: Role) -> bool {
    !is_special(role)
        || (role == Role::OursWatching && count == SYSCALLS)
        || (role == Role::OursWords && count == ALLOCATIONS)
}

/// Adds one count of all `contenders` to `results`.
pub(crate) fn measure(
    count: &str,
    effort: &Effort,
    contenders: &[&'static dyn Contender],
    results: &mut Results,
) -> Result<(), Failure> {
    let (_root, directory) = process::scratch()?;
    if count == MEMORY {
        let connections: &[usize] = if effort.quick { &[1_000] } else { &[1_000, 10_000] };
        for connections in connections {
            for contender in contenders {
                results.idle.push(idle(*contender, &directory, *connections));
            }
        }
        return Ok(());
    }
    if count == SYSCALLS && std::process::Command::new("strace").arg("-V").output().is_err() {
        results.notes.push("system calls: not measured: install strace".to_owned());
        return Ok(());
    }
    // With few calls what happens once counts for more, and is still small beside one for each.
    let calls_of = |calls: u64| if effort.quick { calls / 4 } else { calls };
    for in_flight in IN_FLIGHT {
        for contender in contenders {
            let load = Load { shape: Shape::Echo, payload_bytes: 64, connections: 1, in_flight };
            let mut per_call = PerCall::new(count, *contender, in_flight);
            match process::job(contender.name(), &directory, load, Placement::Free).and_then(|job| match count {
                ALLOCATIONS => allocations(&job, calls_of(2_000)),
                _ => system_calls(&job, calls_of(1_000)),
            }) {
                Ok((client, server, own)) => {
                    per_call.client = Some(client);
                    per_call.server = Some(server);
                    per_call.own = own;
                }
                Err(why) => per_call.problem = Some(why.to_string()),
            }
            results.per_call.push(per_call);
        }
    }
    Ok(())
}

/// Allocations per call of client and server, without the benchmark's own, and those.
fn allocations(job: &Job, calls: u64) -> Result<(f64, f64, f64), Failure> {
    const PREPARATIONS: u64 = 1_000;
    let mut pair = Pair::start(job)?;
    let calls = calls * job.load.in_flight.min(16) as u64;
    // Until buffers, maps and pools have their size.
    pair.run(Until::Calls(2 * calls), false)?;
    for process in [&mut pair.client, &mut pair.server] {
        process.tell(&Order::CountAllocations(true))?;
    }
    let before_preparing = pair.client.usage(false)?.allocations;
    pair.client.tell(&Order::Prepare { times: PREPARATIONS })?;
    let prepared = pair.client.usage(false)?.allocations - before_preparing;
    // An order costs some allocations, all alike; the payload that was prepared from is one more.
    let before_nothing = pair.client.usage(false)?.allocations;
    pair.client.tell(&Order::Prepare { times: 0 })?;
    let nothing = pair.client.usage(false)?.allocations - before_nothing;
    let own = prepared.saturating_sub(nothing) as f64 / PREPARATIONS as f64;

    let mut lap = |calls: u64| -> Result<[u64; 3], Failure> {
        let before = [pair.client.usage(false)?.allocations, pair.server.usage(false)?.allocations];
        let made = pair.client.run(Until::Calls(calls), false)?.calls;
        Ok([made, pair.client.usage(false)?.allocations - before[0], pair.server.usage(false)?.allocations - before[1]])
    };
    let (short, long) = (lap(calls)?, lap(3 * calls)?);
    let per_call = |at: usize| (long[at] as f64 - short[at] as f64) / (long[0] - short[0]) as f64;
    Ok(((per_call(1) - own).max(0.0), per_call(2).max(0.0), own))
}

/// System calls per call of client and server, as strace counts them.
fn system_calls(job: &Job, calls: u64) -> Result<(f64, f64, f64), Failure> {
    let calls = if job.load.in_flight == 1 { calls } else { calls * 32 / 5 };
    let [short, long] = [counted_by_strace(job, calls)?, counted_by_strace(job, 3 * calls)?];
    let per_call = |at: usize| (long[at] as f64 - short[at] as f64) / (long[2] - short[2]) as f64;
    Ok((per_call(0).max(0.0), per_call(1).max(0.0), 0.0))
}

/// System calls of client and server from start to end, and calls.
fn counted_by_strace(job: &Job, calls: u64) -> Result<[u64; 3], Failure> {
    let summary = |ending: &str| job.path.with_extension(ending);
    let strace = |file: &Path| ["strace", "-f", "-c", "-o", &file.to_string_lossy()].map(str::to_owned).to_vec();
    let (client_file, server_file) = (summary("client-calls"), summary("server-calls"));
    let _ = std::fs::remove_file(&job.path);
    let mut pair = Pair::start_under(job, [&strace(&server_file), &strace(&client_file)])?;
    let made = pair.run(Until::Calls(calls), false)?.lap.calls;
    pair.client.finish()?;
    pair.server.finish()?;
    Ok([total(&std::fs::read_to_string(client_file)?)?, total(&std::fs::read_to_string(server_file)?)?, made])
}

/// The sum of the column `calls` of strace's summary.
fn total(summary: &str) -> Result<u64, Failure> {
    let rows = summary.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let calls = rows.filter(|row| row.len() >= 5 && row[0].parse::<f64>().is_ok() && row.last() != Some(&"total"));
    let sum = calls.filter_map(|row| row[3].parse::<u64>().ok()).sum();
    if sum == 0 { Err("strace counted nothing".into()) } else { Ok(sum) }
}

/// Connections of one client process; the rest of the descriptors are for whatever else it opens.
const CONNECTIONS_PER_CLIENT: usize = 4_000;

/// The server's resident memory for each of so many idle connections.
fn idle(contender: &'static dyn Contender, directory: &Path, connections: usize) -> Idle {
    let mut idle = Idle::new(contender, connections);
    if let Err(why) = grow(contender, directory, connections, &mut idle) {
        idle.problem = Some(why.to_string());
    }
    idle
}

fn grow(
    contender: &'static dyn Contender,
    directory: &Path,
    connections: usize,
    idle: &mut Idle,
) -> Result<(), Failure> {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if descriptors < connections as u64 + 100 {
        return Err(format!("the limit of {descriptors} descriptors prevents it (ulimit -Hn)").into());
    }
    let [small, large] = IDLE_PAYLOADS;
    let load = Load { shape: Shape::Echo, payload_bytes: small, connections, in_flight: 1 };
    if let Some(why) = contender.refuses(&load) {
        return Err(why.into());
    }
    let job = process::job(contender.name(), directory, load, Placement::Free)?;
    let mut server = process::start_server(&job, &[])?;
    let mut clients = Vec::new();
    let client_of = |connections: usize| -> Result<Process, Failure> {
        let job = Job { load: Load { connections, ..load }, ..job.clone() };
        let mut client = Process::start(Side::Client, &job, &[])?;
        client.tell(&Order::Connect)?;
        client.tell(&Order::CallEach { payload_bytes: small })?;
        Ok(client)
    };
    // One connection that has done everything: what the server needs only once is no part of the difference.
    let mut first = client_of(1)?;
    first.tell(&Order::CallEach { payload_bytes: large })?;
    let base = server.usage(true)?.resident_kib;
    let per_connection = |now: u64| (now as f64 - base as f64) / connections as f64;
    let mut left = connections;
    while left > 0 {
        let next = left.min(CONNECTIONS_PER_CLIENT);
        clients.push(client_of(next)?);
        left -= next;
    }
    idle.kib_after_small = Some(per_connection(settled(&mut server)?));
    for client in &mut clients {
        client.tell(&Order::CallEach { payload_bytes: large })?;
    }
    idle.kib_after_large = Some(per_connection(settled(&mut server)?));
    Ok(())
}

/// Resident memory once it no longer changes.
fn settled(server: &mut Process) -> Result<u64, Failure> {
    let mut last = server.usage(true)?.resident_kib;
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let now = server.usage(true)?.resident_kib;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_of_strace_is_summed_without_its_total() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
                       ------ ----------- ----------- --------- --------- ----------------\n\
                       60.00    0.000300           3       100        10 read\n\
                       40.00    0.000200           2       101           write\n\
                       ------ ----------- ----------- --------- --------- ----------------\n\
                       100.00    0.000500           2       201        10 total\n";
        assert_eq!(total(summary).unwrap(), 201);
        assert!(total("").is_err());
    }
}
