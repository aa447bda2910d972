//! What can be typed.
//!
//! Parsing only: what a word means by itself is checked here, with an error that names it and says what would be right;
//! what it means together with others, or with files, is checked by its command, before anything is made.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use pod::id::{NoteKey, PodName, TurnId, WorkId};
use pod::protocol::{OutputCursor, RestartKind, RestartPolicy, RewindChildren};

use crate::commands::attach::AttachArgs;
use crate::commands::completions::CompletionsArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::events::EventsArgs;
use crate::commands::man::ManArgs;
use crate::commands::metrics::MetricsArgs;
use crate::commands::tree::TreeArgs;
use crate::exit::EXIT_CODES;
use crate::style::Color;

/// Run trees of pods: processes that delegate work to each other, in which no child's end is ever missed.
///
/// A pod is a process with a name, a store and a socket. A parent gives work to its children; what becomes of it is
/// committed in the child's store, and then once, in order, in the parent's, whoever is killed in between.
#[derive(Debug, Parser)]
#[command(name = "pod", version, max_term_width = 110, after_long_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Print JSON, one object a line, instead of text
    ///
    /// Errors, too, are then one line of JSON, on standard error.
    #[arg(long, global = true, display_order = 900)]
    pub(crate) json: bool,
    /// Keep sockets and stores below DIR
    ///
    /// Otherwise below the directory in the environment variable PODS_ROOT, or else sockets in $XDG_RUNTIME_DIR/pods
    /// and stores in $XDG_STATE_HOME/pods (~/.local/state/pods). The directory must be yours alone (mode 700).
    #[arg(long, global = true, display_order = 901, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// When to use colour
    ///
    /// By default on a terminal, unless NO_COLOR is set or TERM is `dumb`; CLICOLOR_FORCE asks for it elsewhere, too.
    #[arg(long, global = true, display_order = 902, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,
}

/// One command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a parent pod with children, wait until all their work is settled, and show how each ended
    ///
    /// The parent records each report that it is given (`pod log NAME`); each child is a process of its own and is
    /// given one work. Exits with 0 if all of it finished, at every depth, and every child ended in order, else with 1. A name that has
    /// run before goes on with its history: what an earlier process left open is settled first.
    ///
    /// Example: pod run --child a='git log --oneline | head -3' --child b='exit 3'
    Run(RunArgs),
    /// Show what the promise is worth: a canned tree with a child that fails, one that is killed, and a grandchild
    ///
    /// Runs in a temporary directory that is removed afterwards; with --root it is kept, for `pod log` and `pod ls`.
    Demo(DemoArgs),
    /// Print the committed history of a pod, alive or dead
    ///
    /// With --follow it goes on with what is committed, through the pod's end into its next life, without leaving anything
    /// out: between two lives it says that it waits. With --until-end it ends with the pod.
    ///
    /// Example: pod log a --follow --limit 20
    Log(LogArgs),
    /// Show what a pod has told its parent, what waits to be told, and what its children have told it
    ///
    /// Of events for the parent: each that is not acked, how often it was offered and what became of the last offer. Those
    /// that are acked are gone; how far that is, is said. Of events from children: each that was applied. Alive or dead.
    Events(EventsArgs),
    /// Follow a running pod as it works, and send it what is typed, line by line
    ///
    /// Output is shown as it is produced, in whole lines: `|` for what it says, `!` for stderr, `~` for what it thinks. A
    /// line that is typed becomes work where the pod rests, as with `pod send`, and a note for its next request where it works,
    /// as with `pod send --notify`; which of the two, and what became of it, is said, also if the pod dies first. Ctrl-D
    /// detaches, and the pod goes on. Lines of a terminal are shown by it as they are typed, between those of the pod.
    ///
    /// Exits with 0 if every line was taken, else with the code of what became of the first that was not.
    Attach(AttachArgs),
    /// Show who is whose child, and how each pod is doing
    ///
    /// WORKS counts works that are open: given to the pod, and given by it to children. INBOX is what its agent has yet to be
    /// told, OUTBOX what its parent has yet to commit, ENTRIES the length of its history.
    ///
    /// Example: pod tree run --watch
    Tree(TreeArgs),
    /// List the pods: alive or ended, what they do, what waits
    ///
    /// INBOX counts what a pod's agent has yet to be told; OUTBOX the events that its parent has yet to commit;
    /// UNDELIVERABLE those that its parent cannot take.
    Ls,
    /// Print what `pod ls` counts for a collector of metrics, in the text format of OpenMetrics
    ///
    /// One gauge for each figure of each pod, alive or ended, by the labels `pod` and `parent`: pod_outbox_pending and
    /// pod_outbox_undeliverable are what a parent has not committed, pod_alive and pod_answers whether somebody is there. With
    /// --json, the lines of `pod ls`.
    ///
    /// Example: pod metrics --out /var/lib/node_exporter/pods.prom
    Metrics(MetricsArgs),
    /// Send a message to a running pod and say what became of it
    ///
    /// By default the message is work: the pod starts a turn with it, or says why not. With --notify it is put where
    /// the pod is told of it with its next request. Not delivered, rejected and unknown have exit codes of their own.
    Send(SendArgs),
    /// Interrupt the turn of a running pod, so that it can be resumed
    ///
    /// Waits until it is interrupted. Until `pod resume` the pod keeps what it is told and starts no turn; `pod send`
    /// gives it other work, which ends what was paused.
    Pause(ControlArgs),
    /// Go on with what was paused, or start turns again after too many have failed
    Resume(ResumeArgs),
    /// Give up the turn of a running pod, or what was paused
    ///
    /// Waits until it has ended. Its work is then reported as cancelled.
    Cancel(ControlArgs),
    /// Make what a pod's agent knows shorter
    ///
    /// The worker puts all that it knows into a summary; the history stays as it is, and what the agent has not been told
    /// yet is kept. Waits, and shows the summary. Not every worker can do this; one that cannot says so.
    Compact(ControlArgs),
    /// Show what a pod's agent can go back to, or go back
    ///
    /// Without --to it lists the turns that count: when each began, how many reports and notes would be told again, and
    /// how many children that live were started since. With --to TURN the agent knows nothing of that turn and of what
    /// came after; what had been asked is printed, to be changed and sent again. Nothing that was done is undone, and the
    /// history keeps all of it.
    ///
    /// Example: pod rewind a --to 3 --expect 41
    Rewind(RewindArgs),
    /// Make children of a dead pod children of one that runs
    ///
    /// A detached child whose parent is gone keeps what it has to report until the parent is back, or until another pod
    /// adopts it. Its events go on there behind those that the old parent has; work that it was given and that is open goes with
    /// it. The old parent must not run, and is told should it come back.
    ///
    /// Example: pod adopt a b --from old --to new
    Adopt(AdoptArgs),
    /// Stop a running pod and wait until its process is gone
    ///
    /// Its children end with it, unless they are detached; its parent does not start it again. With --all every pod is stopped.
    ///
    /// Example: pod stop --all --timeout 1m
    Stop(StopArgs),
    /// Run a pod by itself until it is stopped
    ///
    /// Says `ready` when it takes work: from `pod send`, and as the parent of what `pod spawn` starts. With --detach it
    /// runs in the background, logs to stderr.log beside its store, and this returns when it is ready. What it was started
    /// as is recorded there, too, so that `pod restore` needs nothing else. Ctrl-C lets its turn end; a second one does not.
    ///
    /// Example: pod serve --name boss --detach
    Serve(ServeArgs),
    /// Let a running pod start a child, and wait until it is ready
    ///
    /// A child that runs a command or follows a script begins at once, unless --idle is given. It ends with its parent,
    /// to which it reports; with --detached it goes on without it. With --restart it is started again when it has ended.
    ///
    /// With --read, --write or --deny it has a scope, which the kernel keeps its programs to (`pod inspect` says how far): what is
    /// not allowed it may not use. It gets no more than its parent has, and what it may write, nobody else may, until its end.
    ///
    /// Example: pod spawn boss digger --command 'git log --oneline | head -3'
    ///
    /// Example: pod spawn boss scribe --command ./report --read /srv/data --write /srv/data/out --deny /srv/data/keys
    Spawn(SpawnArgs),
    /// Tell a running pod something in the middle of its turn
    ///
    /// It is told with its next request, and goes on; a pod at rest starts a turn for it. Says when it is told. Other work,
    /// to be done afterwards, is `pod send --after`; to do something else instead is `pod interrupt`.
    ///
    /// Example: pod steer digger 'leave the tests out'
    Steer(SteerArgs),
    /// Cancel the turn of a running pod, and give it something else to do
    ///
    /// The new work is committed before the turn is told to end, so that nothing is interrupted for nothing. Without TEXT
    /// the turn, or what is paused, is only cancelled.
    ///
    /// Example: pod interrupt digger 'begin with the newest commit instead'
    Interrupt(InterruptArgs),
    /// Print what a pod has produced, page by page, alive or dead
    ///
    /// Each page ends with the place from which to read on, which stays good whatever becomes of the pod. What was
    /// rewound is marked. `pod log` shows all that happened.
    ///
    /// Example: pod output digger --from 41
    Output(OutputArgs),
    /// Show all that there is to know of one pod, alive or dead
    ///
    /// Who holds its life lock, whose child it is, its worker, rights, children and open works, what waits in it and for
    /// its parent, its store, its last entries, and whether it could be restored.
    Inspect(InspectArgs),
    /// Let a pod that has ended live again, under its name and with its history
    ///
    /// A child is started again by its parent, which must run. A root is run again in the background from what it was
    /// started as; children that still live are taken up again, those that ended with it stay ended, and each can be
    /// restored in turn, or all of them with --tree. What was lost with it is to be given again. A pod that lives is only asked whether it answers; one
    /// that is just ending is waited for, and restored.
    ///
    /// Exits with 6 if there is no such pod, 11 if the pod that is asked may not see it or is not its parent, 4 if what is left
    /// of it is not enough, 7 if another process has its name, 9 if it ended while it was starting, 10 if it did not answer in time.
    ///
    /// Example: pod restore boss && pod restore digger
    Restore(RestoreArgs),
    /// Print in words what is said on a connection: from a recording, or while it is said
    ///
    /// With --listen and --to it stands between: whoever connects to the one socket is passed on to the other. The server
    /// then sees this process, not its client's, so a pod does not take it for its child. A recording holds everything
    /// that was said, and can be read by its owner only.
    ///
    /// Example: pod frames --listen /tmp/me/tap.sock --to $XDG_RUNTIME_DIR/pods/run.sock --out talk.rec
    Frames(FramesArgs),
    /// Look for what is wrong with pods, their files, their processes and the machine
    ///
    /// Each finding says what it is, where, why it matters and what to do. Reads all stores. Exits with 0 if nobody has to do
    /// anything, else with 8.
    Doctor(DoctorArgs),
    /// Print what makes a shell complete commands, options and the names of pods
    ///
    /// Names come from the pods that there are, those that live first. To be run by the shell when it starts:
    ///
    /// bash: source <(pod completions bash)
    ///
    /// zsh: source <(pod completions zsh)
    ///
    /// fish: pod completions fish | source
    #[command(verbatim_doc_comment)]
    Completions(CompletionsArgs),
    /// Print the manual page pod(1), or write those of all commands
    ///
    /// Example: pod man --out ~/.local/share/man/man1
    Man(ManArgs),
}

/// `pod run`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("children").args(["child", "child_script"]).multiple(true).required(true))]
pub(crate) struct RunArgs {
    /// The parent's name [default: run]
    #[arg(long, value_name = "NAME", conflicts_with = "manifest")]
    pub(crate) name: Option<PodName>,
    /// A child called NAME that runs COMMAND in a shell; repeatable
    #[arg(long, value_name = "NAME=COMMAND", value_parser = named_child)]
    pub(crate) child: Vec<NamedChild>,
    /// A child called NAME that follows the script in FILE (TOML); repeatable
    #[arg(long, value_name = "NAME=FILE", value_parser = named_child)]
    pub(crate) child_script: Vec<NamedChild>,
    /// What the parent is configured to be (TOML): its name, worker, durability and limits
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
    /// Stop when this has passed and work is still open, for example 90s, 5m or 1h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Keep the pods running when all is settled, until Ctrl-C or `pod stop`
    #[arg(long)]
    pub(crate) keep: bool,
}

/// `pod demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Give up when the tree has not come to its end by then
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub(crate) timeout: Duration,
}

/// `pod log`.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Whose history
    pub(crate) name: PodName,
    /// Only the last N entries
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Begin with the entry SEQ
    #[arg(long, value_name = "SEQ", conflicts_with = "limit")]
    pub(crate) from: Option<u64>,
    /// Go on with what is committed, also by the pod's next lives, until Ctrl-C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// With --follow: end when the pod does not run, with all that it has committed
    #[arg(long, requires = "follow")]
    pub(crate) until_end: bool,
}

/// `pod send`.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// To whom
    pub(crate) name: PodName,
    /// What
    pub(crate) message: String,
    /// Tell, instead of giving work
    #[arg(long, conflicts_with = "after")]
    pub(crate) notify: bool,
    /// If a turn runs, do it when that has ended, instead of saying no
    #[arg(long)]
    pub(crate) after: bool,
    /// The message's key, 16 hexadecimal digits
    ///
    /// Sending a message again under its key does it once. A new key is chosen and printed if none is given.
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub(crate) key: Option<u64>,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub(crate) timeout: Duration,
}

/// `pod pause`, `pod cancel` and `pod compact`.
#[derive(Debug, Args)]
pub(crate) struct ControlArgs {
    /// Whom
    pub(crate) name: PodName,
    /// Return when the pod has been told, and not when it has done it
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long to wait until it is done
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub(crate) timeout: Duration,
}

/// `pod resume`.
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// Whom
    pub(crate) name: PodName,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub(crate) timeout: Duration,
}

/// `pod rewind`.
#[derive(Debug, Args)]
pub(crate) struct RewindArgs {
    /// Whom
    pub(crate) name: PodName,
    /// The first turn that is not to count any more
    #[arg(long, value_name = "TURN", value_parser = turn)]
    pub(crate) to: Option<TurnId>,
    /// Do nothing if the context has grown behind this entry, which the list names
    ///
    /// Without it, what the pod knows at this moment is gone back from.
    #[arg(long, value_name = "ENTRY", requires = "to")]
    pub(crate) expect: Option<u64>,
    /// What becomes of children that live and were started since
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Children::Refuse, requires = "to")]
    pub(crate) children: Children,
    /// How long to wait for the answer, children that have to end included
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub(crate) timeout: Duration,
}

/// What becomes of children that the agent would no longer know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Children {
    /// Nothing is done if there are any
    Refuse,
    /// They are stopped first
    Stop,
    /// They go on, also when the pod ends
    Detach,
}

impl From<Children> for RewindChildren {
    fn from(children: Children) -> Self {
        match children {
            Children::Refuse => Self::Refuse,
            Children::Stop => Self::Stop,
            Children::Detach => Self::Detach,
        }
    }
}

/// `pod adopt`.
#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// Which children
    #[arg(required = true, value_name = "CHILD")]
    pub(crate) children: Vec<PodName>,
    /// Whose they are; it must not run
    #[arg(long, value_name = "OLD")]
    pub(crate) from: PodName,
    /// Whose they are to be; it must run
    #[arg(long, value_name = "NEW")]
    pub(crate) to: PodName,
    /// How long to wait for the answer, for each child
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub(crate) timeout: Duration,
}

/// `pod stop`.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Whom
    #[arg(required_unless_present = "all")]
    pub(crate) name: Option<PodName>,
    /// Stop every pod; with a name, that one and all below it
    ///
    /// Children end with their parents; whoever has none is told. Prints each pod as it is gone. Exits with 0 if all that were to end
    /// have, with 5 if one still runs, with 3 or 4 if one could not be told or says no.
    #[arg(long)]
    pub(crate) all: bool,
    /// With --all: stop detached children, too
    ///
    /// Without it they go on, with all that is below them, and keep what they have to report; each is named.
    #[arg(long, requires = "all")]
    pub(crate) detached: bool,
    /// Cancel the turn that is running instead of letting it end
    #[arg(long)]
    pub(crate) now: bool,
    /// How long to wait until its process is gone
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub(crate) timeout: Duration,
}

/// What a pod is to host.
#[derive(Debug, Args)]
pub(crate) struct HostedArgs {
    /// It runs COMMAND in a shell, in each turn
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["script", "worker"])]
    pub(crate) command: Option<String>,
    /// It follows the script in FILE (TOML)
    #[arg(long, value_name = "FILE", conflicts_with = "worker")]
    pub(crate) script: Option<PathBuf>,
    /// It hosts a worker of this kind [default: ledger, which records what it is told]
    #[arg(long, value_name = "KIND")]
    pub(crate) worker: Option<String>,
}

/// `pod serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Its name
    #[arg(long, value_name = "NAME", conflicts_with = "manifest")]
    pub(crate) name: Option<PodName>,
    /// What it is configured to be (TOML): its name, worker, durability, limits and directory
    #[arg(long, value_name = "FILE", conflicts_with_all = ["command", "script", "worker"])]
    pub(crate) manifest: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) hosted: HostedArgs,
    /// Run it in the background, and return when it is ready
    #[arg(long)]
    pub(crate) detach: bool,
    /// With --detach: how long it may take to be ready
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s", requires = "detach")]
    pub(crate) timeout: Duration,
    /// This process is the one in the background.
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub(crate) background: bool,
}

/// What a child is given of its parent's scope: what its parent has, for reading, if nothing is said.
#[derive(Debug, Args)]
pub(crate) struct ScopeArgs {
    /// It may read PATH and all below it, of what its parent may; repeatable
    #[arg(long, value_name = "PATH", value_parser = place)]
    pub(crate) read: Vec<String>,
    /// It may read and write PATH and all below it: alone, until it has ended; repeatable
    #[arg(long, value_name = "PATH", value_parser = place)]
    pub(crate) write: Vec<String>,
    /// It may use neither PATH nor anything below it, whatever is said of what lies above; repeatable
    #[arg(long, value_name = "PATH", value_parser = place)]
    pub(crate) deny: Vec<String>,
}

/// `pod spawn`.
#[derive(Debug, Args)]
pub(crate) struct SpawnArgs {
    /// Whose child it is to be
    pub(crate) parent: PodName,
    /// Its name
    pub(crate) name: PodName,
    #[command(flatten)]
    pub(crate) hosted: HostedArgs,
    /// What it is to do first; for a command or a script, it begins by itself
    #[arg(long, value_name = "TEXT")]
    pub(crate) input: Option<String>,
    /// It is to do nothing yet
    #[arg(long, conflicts_with = "input")]
    pub(crate) idle: bool,
    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
    #[command(flatten)]
    pub(crate) kept: KeptArgs,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "45s")]
    pub(crate) timeout: Duration,
}

/// How a child is kept.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct KeptArgs {
    /// It goes on when its parent's process is gone
    ///
    /// It keeps what it has to report until the parent is back (`pod restore`), or until another pod adopts it (`pod adopt`).
    /// Stopping its parent does not stop it: `pod stop` on it does, or `pod stop --all --detached`.
    #[arg(long)]
    pub(crate) detached: bool,
    /// Start it again when it has ended
    ///
    /// permanent: always. transient: if it failed, that is, if it did not say that it shuts down. temporary: never. A child that was
    /// stopped is not started again, and neither is one that has never been ready. Pauses grow from 100 ms to 10 s. What it had been
    /// given and was lost stays lost.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = RestartArg::Temporary)]
    pub(crate) restart: RestartArg,
    /// With --restart: at most so many times within --restart-within; then it stays ended, and its parent is told
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024), default_value = "3", requires = "restart")]
    pub(crate) restart_max: u32,
    /// With --restart: the time in which restarts are counted
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "60s", requires = "restart")]
    pub(crate) restart_within: Duration,
}

/// After which ends a child is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RestartArg {
    Temporary,
    Transient,
    Permanent,
}

impl KeptArgs {
    pub(crate) fn policy(self) -> RestartPolicy {
        let kind = match self.restart {
            RestartArg::Temporary => RestartKind::Temporary,
            RestartArg::Transient => RestartKind::Transient,
            RestartArg::Permanent => RestartKind::Permanent,
        };
        let within_ms = u64::try_from(self.restart_within.as_millis()).unwrap_or(u64::MAX);
        RestartPolicy { kind, max: self.restart_max, within_ms }
    }
}

/// `pod steer`.
#[derive(Debug, Args)]
pub(crate) struct SteerArgs {
    /// Whom
    pub(crate) name: PodName,
    /// What it is to know
    pub(crate) text: String,
    /// The text's key, 16 hexadecimal digits; the same key again tells it once
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub(crate) key: Option<u64>,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub(crate) timeout: Duration,
}

/// `pod interrupt`.
#[derive(Debug, Args)]
pub(crate) struct InterruptArgs {
    /// Whom
    pub(crate) name: PodName,
    /// What it is to do instead
    pub(crate) text: Option<String>,
    /// The text's key, 16 hexadecimal digits; the same key again does it once
    #[arg(long, value_name = "KEY", value_parser = key, requires = "text")]
    pub(crate) key: Option<u64>,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub(crate) timeout: Duration,
}

/// `pod output`.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// Whose
    pub(crate) name: PodName,
    /// From this place on: what the last page ended with
    #[arg(long, value_name = "CURSOR", value_parser = cursor, default_value = "0")]
    pub(crate) from: OutputCursor,
    /// From this turn on
    #[arg(long, value_name = "TURN", value_parser = turn, conflicts_with = "from")]
    pub(crate) turn: Option<TurnId>,
    /// How much text, in bytes
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(256..=49152), default_value = "16384")]
    pub(crate) max_bytes: u32,
}

/// `pod inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Which
    pub(crate) name: PodName,
}

/// `pod restore`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Which
    pub(crate) name: PodName,
    /// Ask this running pod for it, instead of the one whose child it is said to be
    #[arg(long, value_name = "POD", conflicts_with = "tree")]
    pub(crate) by: Option<PodName>,
    /// Restore what was below it, too: its children that lived when it ended, and theirs, from the top downwards
    ///
    /// Says what became of each, and goes on whatever that is. Children that had ended before stay ended. One that had been stopped as
    /// the very last thing before its parent ended counts as one that lived. Exits with 0 if all of them live.
    #[arg(long)]
    pub(crate) tree: bool,
    /// How long it may take until it answers
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub(crate) timeout: Duration,
}

/// `pod frames`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("from").args(["recording", "listen"]).required(true))]
pub(crate) struct FramesArgs {
    /// A recording, made with --out
    pub(crate) recording: Option<PathBuf>,
    /// Listen on this socket, and pass on what comes
    #[arg(long, value_name = "SOCKET", requires = "to")]
    pub(crate) listen: Option<PathBuf>,
    /// To the server at this socket
    #[arg(long, value_name = "SOCKET", requires = "listen")]
    pub(crate) to: Option<PathBuf>,
    /// Record into this new file as well, up to 256 MiB
    #[arg(long, value_name = "FILE", requires = "listen")]
    pub(crate) out: Option<PathBuf>,
}

/// A child as it is typed: `NAME=WHAT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedChild {
    pub(crate) name: PodName,
    pub(crate) what: String,
}

impl SendArgs {
    pub(crate) fn work(&self) -> WorkId {
        self.key.map_or_else(WorkId::random, WorkId)
    }

    pub(crate) fn note(&self) -> NoteKey {
        self.key.map_or_else(NoteKey::random, NoteKey)
    }
}

fn named_child(text: &str) -> Result<NamedChild, String> {
    let Some((name, what)) = text.split_once('=') else {
        return Err("there is no `=` in it; write NAME=WHAT, for example --child a='git log | head -3'".to_owned());
    };
    let name: PodName = name.parse().map_err(|error: pod::id::NameError| error.to_string())?;
    if what.trim().is_empty() {
        return Err(format!("nothing stands behind the `=`; say what `{name}` is to run"));
    }
    Ok(NamedChild { name, what: what.to_owned() })
}

fn turn(text: &str) -> Result<TurnId, String> {
    let remedy = "a turn is a whole number, as `pod rewind NAME` and `pod log NAME` show it";
    text.parse().map(TurnId).map_err(|_| remedy.to_owned())
}

fn cursor(text: &str) -> Result<OutputCursor, String> {
    text.parse()
}

/// A place of a scope, as it is typed.
fn place(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Err("it is no absolute path; write the whole of it, /some/where".to_owned())
}

fn key(text: &str) -> Result<u64, String> {
    text.parse::<WorkId>().map(|work| work.0).map_err(|_| "a key has 16 hexadecimal digits".to_owned())
}

/// A duration as people write it: a whole number and its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let remedy = "write a whole number and its unit, for example 500ms, 90s, 5m or 1h";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("it does not begin with a number; {remedy}"))?;
    let millis = match unit {
        "ms" => Some(number),
        "s" | "" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(format!("`{unit}` is no unit; {remedy}")),
    };
    // LIMIT: a year; longer ones are typing errors, and would pass what clocks can add.
    let year = 365 * 24 * 3_600_000;
    match millis {
        Some(0) => Err(format!("it is no time at all; {remedy}")),
        Some(millis) if millis <= year => Ok(Duration::from_millis(millis)),
        _ => Err("it is more than a year".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, millis) in [("500ms", 500), ("90s", 90_000), ("7", 7_000), ("5m", 300_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1.5s", "1 s", "1d", "0s", "99999999999999999999s", "9000h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn child_is_a_name_and_what_it_runs() {
        let child = named_child("a=x=y").unwrap();
        assert_eq!((child.name.as_str(), child.what.as_str()), ("a", "x=y"));
        for (text, word) in [("a", "no `=`"), ("=x", "it is empty"), ("A=x", "a-z"), ("a= ", "nothing stands")] {
            let error = named_child(text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
