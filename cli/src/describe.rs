//! History as sentences: one line for each entry.
//!
//! Text that came from pods is quoted on one line and cut; all of it is in the JSON lines.

use pod::protocol::{FailureKind, LocalEvent, PodEvent};
use pod::store::{HistoryItem, Origin, OutputKind, SystemItem, Terminal, ToolEnd, TurnCause, TurnOutcome, UnixMillis};

use crate::output::{Tone, one_line};

/// LIMIT: characters of a pod's text in one line.
const QUOTE_CHARS_MAX: usize = 160;

/// What happened, in a sentence without a full stop.
pub(crate) fn describe(item: &HistoryItem) -> String {
    match item {
        HistoryItem::LifeStarted { pod } => format!("life {} began", pod.incarnation),
        HistoryItem::UserInput { origin, text } => format!("told by {}: {}", by_whom(origin), quote(text)),
        HistoryItem::TurnStarted { cause, works } => {
            let for_works = works.iter().map(|work| format!(" for work {work}"));
            format!("turn began, {}{}", why(*cause), for_works.collect::<String>())
        }
        HistoryItem::TurnEnded { outcome: TurnOutcome::Ended { result } } => format!("turn ended: {result}"),
        HistoryItem::TurnEnded { outcome: TurnOutcome::Errored { kind: FailureKind::Other, message } } => {
            format!("turn failed: {}", quote(message))
        }
        HistoryItem::TurnEnded { outcome: TurnOutcome::Errored { kind, message } } => {
            format!("turn failed ({kind}): {}", quote(message))
        }
        HistoryItem::Output { output: OutputKind::Text, text } => format!("said: {}", quote(text)),
        HistoryItem::Output { output: OutputKind::Stderr, text } => format!("said on stderr: {}", quote(text)),
        HistoryItem::Output { output: OutputKind::Thinking, text } => format!("thought: {}", quote(text)),
        HistoryItem::ToolCall { call, tool, arguments } => {
            format!("uses tool `{}` (call {call}): {}", quote(tool), quote(&arguments.to_string()))
        }
        HistoryItem::ToolResult { call, how: ToolEnd::Done, text, .. } => {
            format!("call {call} came to: {}", quote(text))
        }
        HistoryItem::ToolResult { call, how: ToolEnd::Failed, text, .. } => {
            format!("call {call} failed: {}", quote(text))
        }
        HistoryItem::ToolResult { call, how: ToolEnd::Abandoned, .. } => {
            format!("call {call} was abandoned: what it has done is not known")
        }
        HistoryItem::Output { text, .. } => format!("produced: {}", quote(text)),
        HistoryItem::Answering { request } => format!("begins to answer request {request} of the turn"),
        HistoryItem::Provider { of, .. } => format!("keeps what its provider wants to be told again with entry {of}"),
        HistoryItem::Usage(usage) => format!(
            "used {} tokens in ({} cached) and {} out",
            usage.input_tokens, usage.cached_tokens, usage.output_tokens
        ),
        HistoryItem::Retrying { attempt, after_ms, reason } => {
            format!("attempt {attempt} failed, again after {after_ms} ms: {}", quote(reason))
        }
        HistoryItem::Continuing { reason } => format!("goes on with what was cut: {}", quote(reason)),
        HistoryItem::Compacted { upto, summary, .. } => {
            format!("context made shorter, entries up to {upto} come to: {}", quote(summary))
        }
        HistoryItem::Rewound { target, by, returned, .. } => {
            let by = by.as_ref().map_or_else(|| "by itself".to_owned(), |origin| format!("by {}", by_whom(origin)));
            format!("rewound {by} to before turn {target}; {returned} reports and notes are told again")
        }
        HistoryItem::Worker { what, detail } => format!("worker: {what} {}", quote(&detail.to_string())),
        HistoryItem::SystemItem(SystemItem::Report { event, .. }) => format!("was told: {}", event_line(event)),
        HistoryItem::SystemItem(SystemItem::Note { origin, text, .. }) => {
            format!("was told by {}: {}", by_whom(origin), quote(text))
        }
        HistoryItem::ControlEvent { event, .. } => format!("took note: {}", event_line(event)),
        HistoryItem::ChildSpawned { child, .. } => {
            format!("child `{}` was spawned ({})", child.name, child.incarnation)
        }
        HistoryItem::ChildDetached { child } => format!("`{}` goes on when its parent ends", child.name),
        HistoryItem::ChildReady { child } => format!("child `{}` is ready", child.name),
        HistoryItem::ChildTerminal { child, terminal, unread } => {
            let unread = unread.as_ref().map(|why| format!("; its last events could not be read: {}", quote(why)));
            format!("child `{}` {}{}", child.name, terminal_line(terminal), unread.unwrap_or_default())
        }
        HistoryItem::WorkDelegated { child, input } => format!("work was given to `{}`: {}", child.name, quote(input)),
        HistoryItem::WorkSettled { result, child: Some(child) } => format!("work of `{child}` is settled: {result}"),
        HistoryItem::WorkSettled { result, child: None } => format!("work is settled: {result}"),
        HistoryItem::Blocked { reason, .. } => format!("blocked: {}", quote(reason)),
        HistoryItem::Unblocked => "no longer blocked".to_owned(),
        HistoryItem::OlderThanParent { ours, parent } => format!(
            "this store is an older copy: its parent has events up to {parent}, it knew of none after {ours}; it goes on behind them"
        ),
        HistoryItem::NewerThanParent { ours, parent } => format!(
            "the parent has events up to {parent}, though {ours} was acked: its store is an older copy, or it is another; \
             what lies between is told to it as missing"
        ),
        HistoryItem::CommitsLost { from, to } => format!(
            "the machine went down, and commits {from} to {to} are missing: they were not synced (`durability = power` syncs each)"
        ),
        HistoryItem::ReportDamaged { entry } => {
            format!("entry {entry} of the inbox is damaged: its agent is told that something is missing")
        }
        HistoryItem::RunDamaged { turn } => format!("what turn {turn} was to do is damaged: it fails"),
        HistoryItem::EventDamaged { seq } => format!("event {seq} is damaged: its parent is told that it is missing"),
        other => other.kind().replace('_', " "),
    }
}

/// How an entry is shown: what failed, what went well, and everything else.
pub(crate) fn tone(item: &HistoryItem) -> Tone {
    match item {
        HistoryItem::TurnEnded { outcome: TurnOutcome::Errored { .. } }
        | HistoryItem::ChildTerminal { terminal: Terminal::Lost { .. } | Terminal::NeverStarted { .. }, .. }
        | HistoryItem::ToolResult { how: ToolEnd::Failed, .. }
        | HistoryItem::OlderThanParent { .. }
        | HistoryItem::NewerThanParent { .. }
        | HistoryItem::CommitsLost { .. }
        | HistoryItem::ReportDamaged { .. }
        | HistoryItem::RunDamaged { .. }
        | HistoryItem::EventDamaged { .. }
        | HistoryItem::Blocked { .. } => Tone::Bad,
        HistoryItem::WorkSettled { result, .. } if result.is_success() => Tone::Good,
        HistoryItem::WorkSettled { .. } => Tone::Bad,
        HistoryItem::SystemItem(SystemItem::Report { event, .. }) | HistoryItem::ControlEvent { event, .. } => {
            match event {
                LocalEvent::Lost { .. } | LocalEvent::Reported(PodEvent::Errored { .. } | PodEvent::Gap { .. }) => {
                    Tone::Bad
                }
                LocalEvent::Reported(_) => Tone::Plain,
            }
        }
        HistoryItem::Retrying { .. } => Tone::Doubtful,
        HistoryItem::LifeStarted { .. } | HistoryItem::Usage(_) => Tone::Faint,
        _ => Tone::Plain,
    }
}

/// How a child's life ended, after its name.
pub(crate) fn terminal_line(terminal: &Terminal) -> String {
    match terminal {
        Terminal::ShutDown => "shut down".to_owned(),
        Terminal::Lost { reason } => format!("was lost: {reason}"),
        Terminal::NeverStarted { reason } => format!("was never started: {}", quote(reason)),
    }
}

/// What an event of a child says.
pub(crate) fn event_line(event: &LocalEvent) -> String {
    match event {
        LocalEvent::Lost { reason, .. } => format!("`{}` is lost: {reason}", event.pod().name),
        LocalEvent::Reported(event) => own_event_line(event),
    }
}

/// What an event that a pod raises says.
pub(crate) fn own_event_line(event: &PodEvent) -> String {
    let pod = &event.pod().name;
    match event {
        PodEvent::TurnEnded { work, result, .. } => format!("`{pod}` ended a turn of work {work}: {result}"),
        PodEvent::Errored { work, message, .. } => {
            let of = work.map(|work| format!(" in work {work}")).unwrap_or_default();
            format!("`{pod}` failed{of}: {}", quote(message))
        }
        PodEvent::ShutDown { .. } => format!("`{pod}` shut down"),
        PodEvent::ScopeSubDelegated { parent_pod, sub_pod, .. } => {
            format!("`{}` is a child of `{}`", sub_pod.name, parent_pod.name)
        }
        PodEvent::WorkSettled { work, result, .. } => format!("work {work} of `{pod}` is settled: {result}"),
        PodEvent::Gap { from, to, .. } => format!("events {from} to {to} of `{pod}` are missing for good"),
    }
}

fn by_whom(origin: &Origin) -> String {
    match origin {
        Origin::Parent { pod } => format!("its parent `{}`", pod.name),
        Origin::Person { uid, pid: Some(pid) } => format!("user {uid} (process {pid})"),
        Origin::Person { uid, pid: None } => format!("user {uid}"),
        Origin::Host => "its own program".to_owned(),
    }
}

fn why(cause: TurnCause) -> &'static str {
    match cause {
        TurnCause::Run => "with a run",
        TurnCause::Reports => "to be told what is new",
        TurnCause::Resume => "going on",
        TurnCause::Compact => "to make the context shorter",
    }
}

fn quote(text: &str) -> String {
    one_line(text, QUOTE_CHARS_MAX)
}

/// A time of day with its date, in UTC: `2026-11-21 04:31:07.250`.
pub(crate) fn time(at: UnixMillis) -> String {
    let (seconds, millis) = (at.0 / 1000, at.0 % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}")
}

/// The date that is `days` after 1970-01-01, in the Gregorian calendar: counts whole eras of 400 years, then years that
/// begin in March, so that the leap day is the last one (Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (at, text) in [
            (0, "1970-01-01 00:00:00.000"),
            (951_782_399_999, "2000-02-28 23:59:59.999"),
            (951_782_400_000, "2000-02-29 00:00:00.000"),
            (1_795_235_467_250, "2026-11-21 04:31:07.250"),
            (4_107_542_400_000, "2100-03-01 00:00:00.000"),
        ] {
            assert_eq!(time(UnixMillis(at)), text);
        }
    }

    #[test]
    fn text_of_pods_stays_on_its_line() {
        let item = HistoryItem::Output { output: OutputKind::Text, text: "a\n\u{1b}[2Jb".to_owned() };
        assert_eq!(describe(&item), "said: a  [2Jb");
    }
}
