//! Plots as SVG: calls a second by calls in flight, and by connections; a line for each contender.
//!
//! Both axes are logarithmic: a cost that grows linearly is a flat or rising line.

use std::fmt::Write;

use crate::contender::{CONTENDERS, Role};
use crate::plan::{CONNECTIONS, IN_FLIGHT};
use crate::report::{Results, Spread};

/// One plot: its file, its texts, the workload of each position.
struct Plot {
    file: &'static str,
    title: &'static str,
    axis: &'static str,
    positions: Vec<(usize, String)>,
}

/// File names and contents. A plot is left out when fewer than two of its positions were measured.
pub(crate) fn plots(results: &Results) -> Vec<(&'static str, String)> {
    let plots = [
        Plot {
            file: "bench-in-flight.svg",
            title: "64 B echo over a Unix socket, one connection",
            axis: "calls in flight",
            positions: IN_FLIGHT.iter().map(|n| (*n, format!("64B-{n}-free"))).collect(),
        },
        Plot {
            file: "bench-connections.svg",
            title: "64 B echo over Unix sockets, one call in flight on each",
            axis: "connections",
            positions: CONNECTIONS.iter().map(|n| (*n, format!("conns-{n}-free"))).collect(),
        },
    ];
    plots.iter().filter_map(|plot| Some((plot.file, draw(results, plot)?))).collect()
}

struct Line {
    name: &'static str,
    role: Role,
    color: &'static str,
    /// Position on the axis and calls a second.
    points: Vec<(usize, f64)>,
}

/// Colours that the colour-blind can tell apart (Okabe and Ito); ours is black and thick.
const COLORS: [&str; 8] = ["#999999", "#56b4e9", "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#8c6d1f"];

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 56.0;

fn draw(results: &Results, plot: &Plot) -> Option<String> {
    let lines = lines(results, plot);
    let rates = || lines.iter().flat_map(|line| line.points.iter().map(|(_, rate)| *rate));
    let measured = lines.iter().map(|line| line.points.len()).max()?;
    if measured < 2 {
        return None;
    }
    let low = 10_f64.powf(rates().fold(f64::INFINITY, f64::min).log10().floor());
    let high = 10_f64.powf(rates().fold(0.0, f64::max).log10().ceil());
    let (first, last) = (plot.positions.first()?.0 as f64, plot.positions.last()?.0 as f64);
    let x = |position: f64| LEFT + (position / first).ln() / (last / first).ln() * (WIDTH - LEFT - RIGHT);
    let y = |rate: f64| HEIGHT - BOTTOM - (rate / low).ln() / (high / low).ln() * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"16\" font-weight=\"bold\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"40\" fill=\"#555\">calls a second, client and server as two processes; {} ({} CPUs), \
         Linux {}, {}, commit {}</text>\n",
        plot.title,
        results.machine.processor,
        results.machine.cpus,
        results.machine.kernel,
        results.machine.date,
        results.machine.commit
    );
    let mut decade = low;
    while decade <= high * 1.01 {
        let at = y(decade);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            rounded(decade)
        );
        decade *= 10.0;
    }
    for (position, _) in &plot.positions {
        let at = x(*position as f64);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#eee\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{position}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 14.0,
        plot.axis
    );
    for line in &lines {
        curve(&mut svg, line, x, y);
    }
    names(&mut svg, &lines, y);
    svg += "</svg>\n";
    Some(svg)
}

fn lines(results: &Results, plot: &Plot) -> Vec<Line> {
    let mut colors = COLORS.iter().cycle();
    let mut lines = Vec::new();
    for contender in CONTENDERS {
        let points: Vec<(usize, f64)> = plot
            .positions
            .iter()
            .filter_map(|(position, workload)| {
                let series = results.of(workload).find(|series| series.contender == contender.name())?;
                let micros = Spread::of(&series.micros).median;
                micros.is_finite().then_some((*position, 1e6 / micros))
            })
            .collect();
        let ours = contender.role() == Role::Ours;
        let color = if ours { "#000000" } else { colors.next().copied().unwrap_or("#999999") };
        if !points.is_empty() {
            lines.push(Line { name: contender.name(), role: contender.role(), color, points });
        }
    }
    lines
}

fn curve(svg: &mut String, line: &Line, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) {
    let at: Vec<(f64, f64)> = line.points.iter().map(|(position, rate)| (x(*position as f64), y(*rate))).collect();
    let path: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let (width, dashes) = match line.role {
        Role::Ours => (3.5, ""),
        Role::Peer => (2.0, ""),
        Role::Ceiling | Role::Floor | Role::Spinning | Role::OursSpinning | Role::OursWatching | Role::OursWords => {
            (1.5, " stroke-dasharray=\"6 4\"")
        }
    };
    let color = line.color;
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\"{dashes}/>",
        path.join(" ")
    );
    for (x, y) in at {
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>");
    }
}

/// Names at the right, next to the ends of their lines, moved apart where those are close.
fn names(svg: &mut String, lines: &[Line], y: impl Fn(f64) -> f64) {
    const APART: f64 = 15.0;
    let end = |line: &Line| line.points.last().map_or(0.0, |(_, rate)| y(*rate));
    let mut sorted: Vec<&Line> = lines.iter().collect();
    sorted.sort_by(|a, b| end(a).total_cmp(&end(b)));
    let mut lowest = TOP - APART;
    let mut places = Vec::new();
    for line in &sorted {
        lowest = end(line).max(lowest + APART);
        places.push(lowest);
    }
    // What went too far down goes back up.
    let mut highest = HEIGHT - BOTTOM + APART;
    for place in places.iter_mut().rev() {
        *place = place.min(highest - APART);
        highest = *place;
    }
    for (line, place) in sorted.iter().zip(places) {
        let weight = if line.role == Role::Ours { " font-weight=\"bold\"" } else { "" };
        let (x, color) = (WIDTH - RIGHT + 12.0, line.color);
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"{place:.1}\" x2=\"{:.1}\" y2=\"{place:.1}\" stroke=\"{color}\" stroke-width=\"3\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\"{weight}>{}</text>",
            x + 16.0,
            x + 22.0,
            place + 4.0,
            line.name
        );
    }
}

/// A power of ten.
fn rounded(rate: f64) -> String {
    match rate {
        1e6.. => format!("{:.0} M", rate / 1e6),
        1e3.. => format!("{:.0} k", rate / 1e3),
        _ => format!("{rate:.0}"),
    }
}
