//! The table for the README.

use std::fmt::Write;

use crate::contender::{CONTENDERS, Role, is_special};
use crate::report::{Results, Series, Spread, short};

/// What a row of the table is.
const ROWS: [(&str, &str); 15] = [
    ("64B-1-one", "64 B, 1 in flight, one CPU"),
    ("64B-1-free", "64 B, 1 in flight, two CPUs"),
    ("64B-64-one", "64 B, 64 in flight, one CPU"),
    ("64B-64-free", "64 B, 64 in flight, two CPUs"),
    ("64B-1024-free", "64 B, 1 024 in flight, two CPUs"),
    ("4KiB-64-free", "4 KiB, 64 in flight"),
    ("64KiB-1-free", "64 KiB, 1 in flight"),
    ("64KiB-64-free", "64 KiB, 64 in flight"),
    ("64KiB-1024-free", "64 KiB, 1 024 in flight"),
    ("1MiB-1-free", "1 MiB, 1 in flight"),
    ("1MiB-64-free", "1 MiB, 64 in flight"),
    ("fetch-1MiB-free", "1 MiB answer; ours as a stream"),
    ("push-1MiB-free", "1 MiB request; ours as a stream"),
    ("conns-1000-free", "1 000 connections, 1 in flight each"),
    ("connect-one", "connect, one call, close"),
];

/// Calls a second of everyone, then counts, then goals that were missed.
pub(crate) fn table(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "Thousands of calls a second, median of the rounds of one run in which all took turns; client and server are two \
         processes,\nconnected by a Unix socket. {} ({} CPUs), Linux {}, {}, commit {}:\n\
         `cargo run --release --manifest-path rpc/benches/peers/Cargo.toml`\n\n",
        machine.processor, machine.cpus, machine.kernel, machine.date, machine.commit
    );
    let columns: Vec<&str> = CONTENDERS
        .iter()
        .filter(|contender| results.series.iter().any(|series| series.contender == contender.name()))
        .filter(|contender| !is_special(contender.role()))
        .map(|contender| contender.name())
        .collect();
    let _ = writeln!(text, "| | {} |", columns.iter().map(|name| bold(name, name)).collect::<Vec<_>>().join(" | "));
    text += "|---";
    text += &"|---:".repeat(columns.len());
    text += "|\n";
    let figure = |workload: &str, name: &str| {
        let series = results.of(workload).find(|series| series.contender == name);
        series.filter(|series| !series.micros.is_empty()).map_or_else(|| "-".to_owned(), rate)
    };
    for (workload, title) in ROWS {
        if results.of(workload).next().is_none() {
            continue;
        }
        let cells: Vec<String> = columns.iter().map(|name| bold(name, &figure(workload, name))).collect();
        let _ = writeln!(text, "| {title} | {} |", cells.join(" | "));
    }
    let mut row = |title: String, cell: &dyn Fn(&str) -> Option<String>| {
        let cells: Vec<Option<String>> = columns.iter().map(|name| cell(name)).collect();
        if cells.iter().all(Option::is_none) {
            return;
        }
        let cells = columns.iter().zip(cells).map(|(name, cell)| bold(name, cell.as_deref().unwrap_or("-")));
        let _ = writeln!(text, "| {title} | {} |", cells.collect::<Vec<_>>().join(" | "));
    };
    for (workload, title) in [("64B-1024-free", "1 024 in flight"), ("conns-1000-free", "1 000 connections")] {
        row(format!("p99 with {title}, ms"), &|name| {
            let series = results.of(workload).find(|series| series.contender == name)?;
            let p99 = Spread::of(&series.p99_micros).median / 1e3;
            p99.is_finite().then(|| short(p99))
        });
    }
    row("CPU of both sides, us a call, 64 in flight".to_owned(), &|name| {
        let series = results.of("64B-64-one").find(|series| series.contender == name)?;
        let cpu = Spread::of(&series.cpu_client_micros).median + Spread::of(&series.cpu_server_micros).median;
        cpu.is_finite().then(|| short(cpu))
    });
    for (count, title) in [("allocations", "allocations a call"), ("syscalls", "system calls a call")] {
        for in_flight in [1, 64] {
            row(format!("{title}, client + server, {in_flight} in flight"), &|name| {
                let mut counts = results.per_call.iter();
                let one =
                    counts.find(|one| one.count == count && one.in_flight == in_flight && one.contender == name)?;
                Some(format!("{} + {}", count_of(one.client?), count_of(one.server?)))
            });
        }
    }
    for connections in [1_000, 10_000] {
        row(format!("KiB an idle connection of {connections}: small calls / one of 256 KiB"), &|name| {
            let mut idle = results.idle.iter();
            let idle = idle.find(|idle| idle.connections == connections && idle.contender == name)?;
            let large = idle.kib_after_large.map_or_else(|| "-".to_owned(), short);
            Some(format!("{} / {large}", short(idle.kib_after_small?)))
        });
    }
    let words = results.per_call.iter().filter(|one| one.role == Role::OursWords);
    for (in_flight, client, server) in words.filter_map(|one| Some((one.in_flight, one.client?, one.server?))) {
        let _ = writeln!(
            text,
            "\nAllocations a call of ours without the payload's own ({in_flight} in flight, a message of eight numbers): {} + {}.",
            count_of(client),
            count_of(server)
        );
    }
    for goal in results.goals.iter().filter(|goal| goal.goal.starts_with("spinning") && goal.reached.is_some()) {
        let _ = writeln!(
            text,
            "\nWith `spin` on both sides (off by default), 64 B, 1 in flight, two CPUs: {}.",
            goal.measured
        );
    }
    let missed: Vec<_> = results.goals.iter().filter(|goal| goal.reached == Some(false)).collect();
    if !missed.is_empty() {
        text += "\nNot reached:\n";
        for goal in missed {
            let _ = writeln!(text, "- {}, {}: {}", goal.workload, goal.goal, goal.measured);
        }
    }
    text
}

fn rate(series: &Series) -> String {
    short(1e3 / Spread::of(&series.micros).median)
}

fn count_of(count: f64) -> String {
    if count < 0.005 { "0".to_owned() } else { short(count) }
}

/// Ours stands out.
fn bold(contender: &str, text: &str) -> String {
    let ours = CONTENDERS.iter().any(|one| one.name() == contender && one.role() == Role::Ours);
    if ours && text != "-" { format!("**{text}**") } else { text.to_owned() }
}
