//! `pod attach`: a pod as it works, and lines to it.
//!
//! Decides nothing about what a line becomes that the pod does not confirm: a run is tried where the pod rests, and a note
//! where it works; if it has begun to work meanwhile, it says so, nothing was applied, and the line becomes a note. Each
//! line ends in one sentence that says what became of it, also when the pod dies. That it has died is its life lock's word: a
//! stream that breaks off is asked for again, from where it broke.
//!
//! `screen` prints; here is what is read, sent and waited for.

use std::collections::VecDeque;
use std::io::{BufRead as _, Read as _};
use std::time::Duration;

use clap::Args;
use pod::Method;
use pod::attach::{Seen, Watch, WatchError};
use pod::id::{PodName, WorkId};
use pod::protocol::{
    NOTE_BYTES_MAX, PodState, RUN_INPUT_BYTES_MAX, Run, RunRejection, SendKind, SendToPod, Sent, Told,
};
use pod::runtime_dir::PodPaths;
use rpc::{CallError, Client};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::again::{Again, Next, refused};
use crate::args::Global;
use crate::commands::{existing_pod, running};
use crate::entry;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::follow::{Follower, Found};
use crate::output::{Output, Tone, one_line};
use crate::screen::Screen;
use crate::stopping::Signals;

/// LIMIT: lines that were read and not sent yet; a pipe that writes more waits.
const LINES_MAX: usize = 64;
/// How long one line may take until it is said that its outcome is unknown.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How long it is looked, when the pod has died, for what stands in a pipe already: a copy from the kernel.
const TYPED_MAX: Duration = Duration::from_millis(200);

/// `pod attach`.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// To whom
    name: PodName,
    /// Only look: send nothing, and read no input
    #[arg(long)]
    read_only: bool,
    /// Begin with the last N entries of its history
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: u64,
}

/// A line that was typed; or why it is none that can be sent.
type Line = Result<String, String>;

/// What became of a line.
#[derive(Debug)]
enum Fate {
    /// The pod began a turn with it.
    Run { turn: pod::id::TurnId, work: WorkId },
    /// The pod has it, and its agent is told so, or not.
    Steered(Told),
    /// Nobody saw it.
    NotDelivered(String),
    /// The pod said no.
    Refused(String),
    /// It may have been applied.
    Unknown(String),
}

pub(crate) async fn attach(args: &AttachArgs, global: &Global, output: &mut Output) -> Result<Exit, Failure> {
    let (_, paths) = existing_pod(global, &args.name)?;
    let life = running(&paths)?.pod;
    let client = Client::new(&rpc::Address::unix(paths.socket()));
    let head = match paths.store().exists() {
        true => Follower::open(&paths)?.look(|reads| reads.history_head())?,
        false => 0,
    };
    let from = head.saturating_sub(args.limit);
    let watch = Watch::open(&client, from).await.map_err(|error| refused(&args.name, error))?;
    let attached = Attached {
        args,
        again: Again::new(&paths, life, &client),
        paths,
        cursor: from,
        watch,
        screen: Screen::default(),
        lines: if args.read_only { None } else { Some(read_lines()) },
        waiting: VecDeque::new(),
        sending: None,
        worst: Exit::Ok,
    };
    attached.run(output).await
}

struct Attached<'a> {
    args: &'a AttachArgs,
    paths: PodPaths,
    again: Again,
    watch: Watch,
    /// The last entry that was shown, or said not to be.
    cursor: u64,
    screen: Screen,
    /// None once there will be no more.
    lines: Option<mpsc::Receiver<Line>>,
    waiting: VecDeque<String>,
    sending: Option<(String, JoinHandle<Fate>)>,
    /// What the process exits with: the worst that became of a line.
    worst: Exit,
}

impl Attached<'_> {
    async fn run(mut self, output: &mut Output) -> Result<Exit, Failure> {
        let mut signals = Signals::new()?;
        let mut caught_up = false;
        loop {
            if caught_up
                && self.sending.is_none()
                && self.waiting.is_empty()
                && self.lines.is_none()
                && !self.args.read_only
            {
                self.screen.flush(output)?;
                output.line(format!("-- detached from `{}`, which goes on", self.args.name))?;
                return Ok(self.worst);
            }
            if caught_up && self.sending.is_none() {
                self.send_next();
            }
            // CANCEL SAFETY: what a watch has not returned comes again, lines and signals are kept, a call goes on in
            // its task.
            tokio::select! {
                seen = self.watch.next() => match seen {
                    Some(Ok(Seen::CaughtUp)) => {
                        caught_up = true;
                        self.screen.in_flight(&self.watch, output)?;
                        self.greet(output)?;
                    }
                    Some(Ok(seen)) => self.see(&seen, caught_up, output)?,
                    // Its own word that this was all.
                    None => return self.over(output).await,
                    Some(Err(error)) => {
                        self.screen.flush(output)?;
                        self.cursor = self.cursor.max(self.watch.cursor());
                        // CANCEL SAFETY: a subscription that is not there yet is asked for in vain, and this process ends.
                        let goes_on = tokio::select! {
                            goes_on = self.attach_again(&error, output) => goes_on?,
                            () = signals.next() => return self.leave(output),
                        };
                        if !goes_on {
                            return self.over(output).await;
                        }
                        caught_up = false;
                    }
                },
                line = next_line(&mut self.lines), if self.waiting.len() < LINES_MAX => match line {
                    Some(Ok(line)) => self.waiting.push_back(line),
                    Some(Err(why)) => self.fate("", Fate::Refused(why), output)?,
                    None => self.lines = None,
                },
                fate = sent(&mut self.sending) => {
                    let line = self.sending.take().map(|(line, _)| line).unwrap_or_default();
                    self.fate(&line, fate, output)?;
                }
                () = signals.next() => return self.leave(output),
            }
        }
    }

    fn leave(mut self, output: &mut Output) -> Result<Exit, Failure> {
        for line in std::mem::take(&mut self.waiting) {
            self.fate(&line, Fate::NotDelivered("it was still waiting when you left".into()), output)?;
        }
        Ok(self.worst)
    }

    /// The same life from where its stream broke off; false if that life is over.
    async fn attach_again(&mut self, error: &WatchError, output: &mut Output) -> Result<bool, Failure> {
        let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        let name = &self.args.name;
        let mut holes = Vec::new();
        loop {
            let waits = |what: &str| {
                output.line(output.paint(Tone::Doubtful, &format!("-- {what}")))?;
                output.record(&serde_json::json!({ "type": "waiting", "pod": name, "why": what }))
            };
            match self.again.next(self.cursor, &cause, waits).await? {
                Next::Watch(watch) => self.watch = watch,
                Next::Over => return Ok(false),
                Next::Hole { last, why } => {
                    say_hole(name, self.cursor.saturating_add(1), last, &why, output)?;
                    (self.worst, self.cursor) = (worse(self.worst, Exit::Internal), last);
                    holes.push(last);
                    continue;
                }
            }
            // That it broke off there is no news any more.
            if holes.is_empty() {
                self.say_again(&cause, output)?;
            }
            return Ok(true);
        }
    }

    fn say_again(&self, cause: &str, output: &mut Output) -> Result<(), Failure> {
        let (name, cursor) = (&self.args.name, self.cursor);
        let said = format!("-- the connection to `{name}` broke ({cause}); attached again, behind entry {cursor}");
        output.line(output.paint(Tone::Doubtful, &said))?;
        output.record(&serde_json::json!({ "type": "attached_again", "pod": name, "cursor": cursor, "why": cause }))
    }

    fn greet(&self, output: &mut Output) -> Result<(), Failure> {
        let state = self.watch.state().map(|state| state.to_string()).unwrap_or_default();
        let how = match self.args.read_only {
            true => "only looking; Ctrl-C ends",
            false => "a line gives it work where it rests and tells it where it works; Ctrl-D detaches",
        };
        output.line(output.paint(Tone::Faint, &format!("-- attached to `{}`, {state}; {how}", self.args.name)))?;
        output.record(&serde_json::json!({
            "type": "attached", "pod": self.args.name, "cursor": self.watch.cursor(), "state": state,
        }))
    }

    fn see(&mut self, seen: &Seen, caught_up: bool, output: &mut Output) -> Result<(), Failure> {
        match seen {
            Seen::Entry { head, line } if output.is_json() => {
                self.screen.passed(head);
                output.raw(&format!("{line}\n"))
            }
            Seen::Entry { line, .. } => self.screen.entry(&entry::parse(line)?, output),
            Seen::InFlight if caught_up => self.screen.in_flight(&self.watch, output),
            Seen::State => self.screen.state(&self.args.name, self.watch.state(), output),
            Seen::InFlight | Seen::CaughtUp => Ok(()),
        }
    }

    /// Sends the next line that waits: one at a time, so that they arrive in their order.
    fn send_next(&mut self) {
        let Some(line) = self.waiting.pop_front() else { return };
        let (client, state, text) = (self.again.client().clone(), self.watch.state(), line.clone());
        self.sending = Some((line, tokio::spawn(async move { send(&client, state, &text).await })));
    }

    fn fate(&mut self, line: &str, fate: Fate, output: &mut Output) -> Result<(), Failure> {
        let name = &self.args.name;
        let (exit, tone, kind, said) = match &fate {
            Fate::Run { turn, work } => {
                (Exit::Ok, Tone::Good, "accepted", format!("`{name}` does it in turn {turn} (work {work})"))
            }
            Fate::Steered(Told::NewTurn) => {
                (Exit::Ok, Tone::Good, "told", format!("`{name}` starts a turn to be told"))
            }
            Fate::Steered(Told::NextRequest { .. }) => {
                (Exit::Ok, Tone::Good, "told", format!("in the inbox of `{name}`, for its next request"))
            }
            Fate::Steered(Told::Later { state }) => {
                (Exit::Ok, Tone::Good, "told", format!("`{name}` is {state}, and is told when it starts turns again"))
            }
            Fate::Steered(Told::Recorded) => (
                Exit::Ok,
                Tone::Doubtful,
                "recorded",
                format!(
                    "the worker of `{name}` reads nothing while it works and is not told; it stands in its history"
                ),
            ),
            Fate::NotDelivered(why) => (Exit::NotDelivered, Tone::Bad, "not delivered", why.clone()),
            Fate::Refused(why) => (Exit::Rejected, Tone::Bad, "rejected", why.clone()),
            Fate::Unknown(why) => (
                Exit::Unknown,
                Tone::Doubtful,
                "unknown",
                format!("{why}; `pod log {name}` shows whether it was applied"),
            ),
        };
        self.worst = worse(self.worst, exit);
        self.screen.flush(output)?;
        let quoted = one_line(line, 60);
        output.line(output.paint(tone, &format!("-- {kind}: {said}: {quoted}")))?;
        output.record(&serde_json::json!({ "type": "sent", "outcome": kind, "line": line, "said": said }))
    }

    /// The pod's life is over: shows what it has committed and did not come to send, and says what became of every line.
    async fn over(mut self, output: &mut Output) -> Result<Exit, Failure> {
        self.screen.flush(output)?;
        if let Some((line, call)) = self.sending.take() {
            let fate = call.await.unwrap_or_else(|error| Fate::Unknown(error.to_string()));
            self.fate(&line, fate, output)?;
        }
        // What was typed already has its sentence, too; nobody waits for more.
        let until = Instant::now() + TYPED_MAX;
        while let Ok(Some(line)) = timeout_at(until, next_line(&mut self.lines)).await {
            self.waiting.extend(line.ok());
        }
        for line in std::mem::take(&mut self.waiting) {
            self.fate(&line, Fate::NotDelivered("the pod is gone".into()), output)?;
        }
        let mut left = Follower::open(&self.paths)?;
        left.skip_to(self.cursor.max(self.watch.cursor()));
        let name = &self.args.name;
        left.catch_up_past_holes(|found| match found {
            Found::Row(row) => entry::print(output, row),
            Found::Hole { first, last, why } => {
                self.worst = worse(self.worst, Exit::Internal);
                say_hole(name, first, last, why, output)
            }
        })?;
        output.line(format!("-- `{name}` has ended; `pod log {name}` shows all that it has committed"))?;
        output.record(&serde_json::json!({ "type": "ended", "pod": name }))?;
        Ok(self.worst)
    }
}

/// What becomes of one line.
async fn send(client: &Client<Method>, state: Option<PodState>, line: &str) -> Fate {
    let rests = matches!(state, Some(PodState::Idle | PodState::Blocked) | None);
    if rests {
        if line.len() > RUN_INPUT_BYTES_MAX {
            return too_long(line, RUN_INPUT_BYTES_MAX);
        }
        let work = WorkId::random();
        let mut answer = client.call(Run { work, input: line.into() }).deadline(ANSWER_MAX).await;
        if let Err(CallError::Unknown(doubt)) = answer {
            answer = doubt.resolve().await;
        }
        match answer {
            Ok(accepted) => return Fate::Run { turn: accepted.turn, work },
            // It began to work meanwhile, and nothing was applied: it is told instead.
            Err(CallError::Rejected(RunRejection::AlreadyRunning { .. })) => {}
            Err(CallError::Rejected(why)) => return Fate::Refused(why.to_string()),
            Err(CallError::NotDelivered(why)) => return Fate::NotDelivered(why.to_string()),
            Err(CallError::Unknown(doubt)) => return Fate::Unknown(doubt.to_string()),
        }
    }
    if line.len() > NOTE_BYTES_MAX {
        return too_long(line, NOTE_BYTES_MAX);
    }
    let note = SendToPod { key: WorkId::random(), how: SendKind::Steer, text: line.into() };
    let mut answer = client.call(note).deadline(ANSWER_MAX).await;
    if let Err(CallError::Unknown(doubt)) = answer {
        answer = doubt.resolve().await;
    }
    match answer {
        Ok(Sent::Steered { told }) => Fate::Steered(told),
        Ok(other) => Fate::Unknown(format!("it answered something else: {other}")),
        Err(CallError::Rejected(why)) => Fate::Refused(why.to_string()),
        Err(CallError::NotDelivered(why)) => Fate::NotDelivered(why.to_string()),
        Err(CallError::Unknown(doubt)) => Fate::Unknown(doubt.to_string()),
    }
}

fn too_long(line: &str, max: usize) -> Fate {
    Fate::Refused(format!("it has {} bytes, at most {max} are taken; put it into a file and send its path", line.len()))
}

async fn next_line(lines: &mut Option<mpsc::Receiver<Line>>) -> Option<Line> {
    match lines {
        Some(lines) => lines.recv().await,
        None => std::future::pending().await,
    }
}

async fn sent(sending: &mut Option<(String, JoinHandle<Fate>)>) -> Fate {
    match sending {
        Some((_, call)) => call.await.unwrap_or_else(|error| Fate::Unknown(error.to_string())),
        None => std::future::pending().await,
    }
}

/// Reads standard input line by line, on a thread of its own: a terminal blocks for as long as nobody types.
fn read_lines() -> mpsc::Receiver<Line> {
    let (lines, read) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut cut = false;
        loop {
            let mut bytes = Vec::new();
            // LIMIT: the longest input that a pod takes, and a byte to see that there is more.
            let max = u64::try_from(RUN_INPUT_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2);
            match stdin.by_ref().take(max).read_until(b'\n', &mut bytes) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let ends = bytes.last() == Some(&b'\n');
            // What stands behind a part that was too long belongs to it.
            let behind = std::mem::replace(&mut cut, !ends && bytes.len() > RUN_INPUT_BYTES_MAX);
            if behind {
                continue;
            }
            let line = match (cut, String::from_utf8(bytes)) {
                (true, _) => Err(format!("a line has more than {RUN_INPUT_BYTES_MAX} bytes; put it into a file")),
                (false, Err(_)) => Err("a line is no UTF-8".to_owned()),
                (false, Ok(line)) if line.trim().is_empty() => continue,
                (false, Ok(line)) => Ok(line.trim_end_matches(['\n', '\r']).to_owned()),
            };
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    read
}

/// The first that went wrong, but for a doubt, which is worse than to know.
fn worse(before: Exit, now: Exit) -> Exit {
    if now != Exit::Ok && (before == Exit::Ok || now == Exit::Unknown) { now } else { before }
}

/// What is committed and cannot be shown.
fn say_hole(name: &PodName, first: u64, last: u64, why: &str, output: &mut Output) -> Result<(), Failure> {
    let which = if first == last { format!("entry {first}") } else { format!("entries {first} to {last}") };
    let said = format!("-- {which} of `{name}` cannot be shown: {why}; `pod doctor` looks at its store");
    output.line(output.paint(Tone::Bad, &said))?;
    output.record(&serde_json::json!({ "type": "not_shown", "pod": name, "first": first, "last": last, "why": why }))
}
