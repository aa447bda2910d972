//! `pod metrics`: what `pod ls` counts, as a collector of metrics reads it.
//!
//! Gauges only, read from stores and asked of the living at one moment; nothing is kept between two calls.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::args::Global;
use crate::commands::ls::{self, Line};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// How figures are asked for.
#[derive(Clone, Debug, Args)]
pub(crate) struct MetricsArgs {
    /// Write them to FILE instead, which has all of the old ones or all of the new ones at every moment
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

type Labels = Vec<(&'static str, String)>;
type Figures = Family<Labels, Gauge>;

/// A figure of a pod: its name, what it means, and where it is found; none, if it is not known.
type Figure = (&'static str, &'static str, fn(&Line) -> Option<u64>);

const FIGURES: [Figure; 12] = [
    ("alive", "1 if a process holds the pod's life lock", |line| Some(line.alive.into())),
    ("answers", "1 if the pod answered within 2 s; only of those that live", |line| {
        line.alive.then(|| line.state.is_some().into())
    }),
    ("readable", "1 if the pod's store can be read; if not, nothing else of it is known", |line| {
        Some(line.unreadable.is_none().into())
    }),
    ("children_live", "children whose life is not over", |line| known(line, line.children_live)),
    ("children", "lives of children, ended ones included", |line| known(line, line.children)),
    ("inbox_waiting", "reports and notes that the pod's agent has yet to be told", |line| known(line, line.inbox)),
    ("outbox_pending", "events that the pod's parent has yet to commit", |line| known(line, line.outbox)),
    ("outbox_undeliverable", "events that the pod's parent cannot take", |line| known(line, line.undeliverable)),
    ("runs_staged", "runs that wait for their turn", |line| known(line, line.counts.runs_staged)),
    ("works_received_open", "works given to the pod that are not settled", |line| {
        known(line, line.counts.works_received_open)
    }),
    ("works_delegated_open", "works given by the pod to children that are not settled", |line| {
        known(line, line.counts.works_delegated_open)
    }),
    ("history_entries", "entries of the pod's history", |line| known(line, line.counts.history)),
];

fn known(line: &Line, figure: u64) -> Option<u64> {
    line.unreadable.is_none().then_some(figure)
}

pub(crate) async fn metrics(args: &MetricsArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let lines = ls::lines(global).await?;
    if output.is_json() && args.out.is_none() {
        // The same figures, for who reads JSON: those of `pod ls`.
        lines.iter().try_for_each(|line| output.record(line))?;
        return Ok(Exit::Ok);
    }
    let text = text(&lines)?;
    match &args.out {
        Some(file) => write(file, &text)?,
        None => output.raw(&text)?,
    }
    Ok(Exit::Ok)
}

fn text(lines: &[Line]) -> Result<String, Failure> {
    let mut registry = Registry::with_prefix("pod");
    for (name, help, of) in FIGURES {
        let figures = Figures::default();
        for line in lines {
            let Some(figure) = of(line) else { continue };
            figures.get_or_create(&labels(line)).set(i64::try_from(figure).unwrap_or(i64::MAX));
        }
        registry.register(name, help, figures);
    }
    let states = Figures::default();
    for line in lines {
        let Some(state) = &line.state else { continue };
        let mut labels = labels(line);
        labels.push(("state", state.clone()));
        states.get_or_create(&labels).set(1);
    }
    registry.register("state", "what the pod does, by the label `state`; only of those that answer", states);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| Failure::from_error(Exit::Internal, error))?;
    Ok(text)
}

fn labels(line: &Line) -> Labels {
    let parent = line.parent.as_ref().map(ToString::to_string).unwrap_or_default();
    vec![("pod", line.name.to_string()), ("parent", parent)]
}

/// All of it or nothing: a collector may read at any moment.
fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Usage, format!("the figures cannot be written to `{}`: {error}", file.display()))
    };
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Figures are for whoever collects them, who may be another user: the umask decides, as for any file.
    let mut new =
        tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(dir).map_err(failed)?;
    new.write_all(text.as_bytes()).map_err(failed)?;
    new.persist(file).map_err(|error| failed(error.error))?;
    Ok(())
}
