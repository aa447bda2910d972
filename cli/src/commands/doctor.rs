//! `pod doctor`: what is wrong, where, why it matters and what to do; with --fix, what was done.

use clap::Args;
use pod::doctor::{self, Fact, Finding, Going, Mended, Report, Severity};
use pod::runtime_dir::Roots;
use serde::Serialize;

use crate::args::Global;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, Tone, one_line};
use crate::table::Table;

/// LIMIT: characters of what was found in one line; all of it is in JSON.
const WHAT_CHARS_MAX: usize = 400;

/// `pod doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Mend what is provably safe to be mended, and say what was done
    ///
    /// Modes of your own files, runtime directories of dead lives, and programs that outlived their pod; the last two while
    /// the pod's life lock is held, so that none can begin. Lives that are proven dead, and rights of nobody, go from the
    /// registry. A living pod and a store are never touched.
    #[arg(long)]
    fix: bool,
}

#[derive(Serialize)]
struct FoundRecord<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    finding: &'a Finding,
}

#[derive(Serialize)]
struct FactRecord<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    fact: &'a Fact,
}

#[derive(Serialize)]
struct Summary {
    r#type: &'static str,
    pods: u64,
    living: u64,
    findings: usize,
    /// Those that somebody has to do something about.
    open: usize,
    mended: usize,
}

pub(crate) fn doctor(args: &DoctorArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let roots = Roots::named(global.root.as_deref()).map_err(|error| Failure::from_error(Exit::Usage, error))?;
    let mut progress = Progress { columns: output.terminal_columns(), shown: false };
    let report = doctor::examine(&roots, args.fix, &mut |going| progress.show(output, going));
    progress.clear(output)?;
    show(&report, output)?;
    let open = report.findings.iter().filter(|finding| finding.is_open()).count();
    Ok(if open > 0 { Exit::Unwell } else { Exit::Ok })
}

/// A line that says how far reading stores has come, where it can be redrawn.
struct Progress {
    columns: Option<usize>,
    shown: bool,
}

impl Progress {
    fn show(&mut self, output: &mut Output, going: Going<'_>) {
        let Some(columns) = self.columns else { return };
        let line = format!("reading `{}`: {} ({} of {})", going.pod, going.table, going.done + 1, going.of);
        let line = output.paint(Tone::Faint, &one_line(&line, columns - 1));
        // It is gone in a moment: if it cannot be written, neither can what follows, which says so.
        let _ = output.raw(&format!("\r\u{1b}[2K{line}"));
        self.shown = true;
    }

    fn clear(&self, output: &mut Output) -> Result<(), Failure> {
        if self.shown { output.raw("\r\u{1b}[2K") } else { Ok(()) }
    }
}

fn show(report: &Report, output: &mut Output) -> Result<(), Failure> {
    let mut facts = Table::new(&["machine", "", "for"]);
    for fact in &report.facts {
        output.record(&FactRecord { r#type: "fact", fact })?;
        let tone = if fact.value == "not there" { Tone::Doubtful } else { Tone::Plain };
        facts.row(vec![
            (fact.name.to_owned(), Tone::Plain),
            (fact.value.clone(), tone),
            (fact.why.to_owned(), Tone::Faint),
        ]);
    }
    for line in facts.lines(output) {
        output.line(line)?;
    }
    for finding in &report.findings {
        output.record(&FoundRecord { r#type: "finding", finding })?;
        let (word, tone) = match finding.severity {
            Severity::Problem => ("problem", Tone::Bad),
            Severity::Warning => ("warning", Tone::Doubtful),
            Severity::Note => ("note", Tone::Faint),
        };
        let text = |text: &str| one_line(text, WHAT_CHARS_MAX);
        output.line("")?;
        output.line(format!("{}  {}", output.paint(tone, word), output.paint(Tone::Strong, &text(&finding.place))))?;
        output.line(format!("  {}", text(&finding.what)))?;
        output.line(output.paint(Tone::Faint, &format!("  because {}", text(finding.why))))?;
        match &finding.mended {
            None => output.line(format!("  to do: {}", text(&finding.remedy)))?,
            Some(Mended::Done(how)) => {
                output.line(format!("  {} {}", output.paint(Tone::Good, "mended:"), text(how)))?;
            }
            Some(Mended::Failed(why)) => {
                output.line(format!("  {} {}", output.paint(Tone::Bad, "not mended:"), text(why)))?;
                output.line(format!("  to do: {}", text(&finding.remedy)))?;
            }
        }
    }
    let mended = report.findings.iter().filter(|finding| matches!(finding.mended, Some(Mended::Done(_)))).count();
    let open = report.findings.iter().filter(|finding| finding.is_open()).count();
    let (pods, living, findings) = (report.pods, report.living, report.findings.len());
    output.record(&Summary { r#type: "summary", pods, living, findings, open, mended })?;
    output.line("")?;
    let verdict = match (open, mended) {
        (0, 0) => output.paint(Tone::Good, "nothing is wrong"),
        (0, mended) => output.paint(Tone::Good, &format!("{mended} mended, nothing else is wrong")),
        (open, mended) => output.paint(Tone::Bad, &format!("{open} to be seen to, {mended} mended")),
    };
    output.line(format!("{pods} pods, of which {living} live: {verdict}"))
}
