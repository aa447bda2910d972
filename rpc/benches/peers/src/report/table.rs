//! The figures as aligned text.

use std::fmt::Write;

use crate::contender::{CONTENDERS, Role, is_special};
use crate::plan::Workload;
use crate::report::{Results, Spread, short, thousands};

/// Everything that was measured.
pub(crate) fn all(results: &Results, workloads: &[Workload]) -> String {
    let mut text = String::new();
    let machine = &results.machine;
    let versions: Vec<String> = machine.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let _ = writeln!(
        text,
        "{}, commit {}, {} ({} CPUs), Linux {}; {}{:.0} s\n{}",
        machine.date,
        machine.commit,
        machine.processor,
        machine.cpus,
        machine.kernel,
        if results.quick { "quick, " } else { "" },
        results.seconds,
        versions.join(", ")
    );
    for contender in CONTENDERS {
        if results.series.iter().any(|series| series.contender == contender.name()) {
            let _ = writeln!(text, "  {}: {}", contender.name(), contender.notes());
        }
    }
    for workload in workloads {
        text += &timed(results, workload);
    }
    text += &counted(results);
    for note in &results.notes {
        let _ = writeln!(text, "\n{note}");
    }
    let verdicts = &results.goals;
    if !verdicts.is_empty() {
        let _ = writeln!(text, "\ngoals of rpc");
        let rows = verdicts.iter().map(|verdict| {
            [verdict.word(), &verdict.workload, &verdict.goal, &verdict.measured].map(str::to_owned).to_vec()
        });
        text += &aligned(rows.collect(), 4);
    }
    text
}

fn timed(results: &Results, workload: &Workload) -> String {
    let floor = results.with_role(&workload.id, Role::Floor);
    let peer = results.fastest_peer(&workload.id);
    let head =
        ["", "us/call", "(min..max)", "k calls/s", "x floor", "x peer", "p50 us", "p99 us", "cpu us client", "server"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for series in results.of(&workload.id) {
        if is_special(series.role) && series.problem.is_some() && !series.failed {
            continue;
        }
        let mut row = vec![series.contender.to_owned()];
        if let Some(problem) = &series.problem {
            row.push(if series.failed { format!("FAILED: {problem}") } else { format!("- {problem}") });
            rows.push(row);
            continue;
        }
        let micros = Spread::of(&series.micros);
        let median = |figures: &[f64]| short(Spread::of(figures).median);
        let against = |other: Option<&super::Series>| other.map_or(f64::NAN, |other| series.rate_against(other).median);
        row.extend([
            short(micros.median),
            format!("({}..{})", short(micros.min), short(micros.max)),
            thousands(micros.median),
            short(against(floor)),
            short(against(peer)),
            median(&series.p50_micros),
            median(&series.p99_micros),
            median(&series.cpu_client_micros),
            median(&series.cpu_server_micros),
        ]);
        rows.push(row);
    }
    format!(
        "\n{} (x floor, x peer: calls a second as a multiple of the tokio floor's and of the fastest peer's)\n{}",
        workload.id,
        aligned(rows, 1)
    )
}

fn counted(results: &Results) -> String {
    let mut text = String::new();
    let counts: Vec<(&str, usize)> =
        results.per_call.iter().map(|one| (one.count.as_str(), one.in_flight)).fold(Vec::new(), |mut seen, one| {
            if !seen.contains(&one) {
                seen.push(one);
            }
            seen
        });
    for (count, in_flight) in counts {
        let mut rows = vec![["", "client", "server"].map(str::to_owned).to_vec()];
        for one in results.per_call.iter().filter(|one| one.count == count && one.in_flight == in_flight) {
            let mut row = vec![one.contender.to_owned()];
            match (&one.problem, one.client, one.server) {
                (None, Some(client), Some(server)) => {
                    row.extend([short(client), short(server)]);
                    if one.own > 0.0 {
                        row.push(format!("without {} of the benchmark's own for the request", short(one.own)));
                    }
                }
                (problem, ..) => row.push(format!("- {}", problem.as_deref().unwrap_or("not measured"))),
            }
            rows.push(row);
        }
        let _ = write!(text, "\n{count} per call, 64 B, {in_flight} in flight\n{}", aligned(rows, 1));
    }
    if !results.idle.is_empty() {
        let head = ["", "connections", "after small calls", "after a large call"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for idle in &results.idle {
            let mut row = vec![idle.contender.to_owned(), idle.connections.to_string()];
            let kib = |figure: Option<f64>| short(figure.unwrap_or(f64::NAN));
            row.extend([kib(idle.kib_after_small), kib(idle.kib_after_large)]);
            row.extend(idle.problem.clone());
            rows.push(row);
        }
        let _ = write!(text, "\nresident memory of the server, KiB for each idle connection\n{}", aligned(rows, 1));
    }
    text
}

/// Columns of equal width: the first `left` to the left, the others to the right. The last cell of a shorter row may be
/// as long as it likes.
fn aligned(rows: Vec<Vec<String>>, left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let is_free = |row: &[String], column: usize| column + 1 == row.len() && (row.len() < columns || column >= left);
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| !is_free(row, column) || row.len() == columns);
        cells.filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths.get(column).copied().unwrap_or(0);
            if column < left || (row.len() < columns && column + 1 == row.len()) {
                let _ = write!(line, "  {cell:<width$}");
            } else {
                let _ = write!(line, "  {cell:>width$}");
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}
