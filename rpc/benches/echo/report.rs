//! The figures, as a table or as JSON: medians with the lowest and the highest round.
//!
//! A ratio is taken within a round, between neighbours in time, and only then its median.

use crate::{Plan, Series};

/// The middle one, and the span.
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(figures: impl Iterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        Self { median: at(figures.len() / 2), min: at(0), max: at(figures.len().saturating_sub(1)) }
    }

    fn json(&self, name: &str) -> String {
        let Self { median, min, max } = self;
        if median.is_nan() {
            return format!(r#""{name}":null"#);
        }
        format!(r#""{name}":{{"median":{median:.3},"min":{min:.3},"max":{max:.3}}}"#)
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.median.is_nan() {
            return f.write_str("      -");
        }
        write!(f, "{:6.2} ({:.2}-{:.2})", self.median, self.min, self.max)
    }
}

/// Microseconds a call, and how many times those of the same calls over bare tokio and over blocking sockets.
fn figures(series: &[Series], one: &Series) -> [Spread; 3] {
    let ratio = |to: &str| {
        let bound = series.iter().find(|s| s.contender.name == to && s.load == one.load);
        let bound = bound.map_or(&[][..], |bound| &bound.micros);
        Spread::of(one.micros.iter().zip(bound).map(|(ours, theirs)| ours / theirs))
    };
    [Spread::of(one.micros.iter().copied()), ratio(one.contender.bound), ratio("blocking")]
}

pub(crate) fn print_tables(plan: &Plan, passes: &[(&str, Vec<Series>)]) {
    println!(
        "echo between two processes over a Unix socket, frames of the same size; {} rounds of {} ms each, in turn; median \
         (min-max)",
        plan.rounds,
        plan.slice.as_millis()
    );
    for (cores, series) in passes {
        let mut load = None;
        for one in ordered(plan, series) {
            if load.replace(one.load) != Some(one.load) {
                let place = format!("{}, {} in flight, {cores}", size(one.load.payload_bytes), one.load.in_flight);
                println!("\n{place:<32} {:<22} {:>8}   {:<20} x blocking", "us a call", "calls/s", "x bare tokio");
            }
            let [micros, tokio, blocking] = figures(series, one);
            let (name, a_second) = (one.contender.name, 1e6 / micros.median);
            let (micros, tokio) = (micros.to_string(), tokio.to_string());
            println!("  {name:<30} {micros:<22} {a_second:>8.0}   {tokio:<20} {blocking}");
        }
    }
}

pub(crate) fn print_json(plan: &Plan, passes: &[(&str, Vec<Series>)]) {
    let mut results = Vec::new();
    for (cores, series) in passes {
        for one in ordered(plan, series) {
            let [micros, tokio, blocking] = figures(series, one);
            results.push(format!(
                r#"{{"contender":"{}","cores":"{cores}","payload_bytes":{},"frame_bytes":{},"in_flight":{},{},{},{}}}"#,
                one.contender.name,
                one.load.payload_bytes,
                one.load.frame_bytes(),
                one.load.in_flight,
                micros.json("us_per_call"),
                tokio.json("times_bare_tokio"),
                blocking.json("times_blocking")
            ));
        }
    }
    println!(
        r#"{{"benchmark":"echo","rounds":{},"slice_ms":{},"results":[{}]}}"#,
        plan.rounds,
        plan.slice.as_millis(),
        results.join(",")
    );
}

fn ordered<'a>(plan: &'a Plan, series: &'a [Series]) -> impl Iterator<Item = &'a Series> {
    plan.loads.iter().flat_map(move |load| series.iter().filter(move |s| s.load == *load && !s.micros.is_empty()))
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
