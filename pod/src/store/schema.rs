//! The tables, version by version.
//!
//! A version that was shipped is never edited (a test knows what each comes to); the next one is appended. All that a store lacks is brought about in
//! one transaction. Never touches a file of a newer version. Every version says its number in `sums` too (`guard::seal`),
//! or older programs would take its files for damaged ones (`version`).
//!
//! Applied by `open`.

use rusqlite::Connection;

use crate::store::error::StoreError;
use crate::store::guard;

/// "pods": tells our files from others.
pub(crate) const APPLICATION_ID: i64 = 0x706f_6473;

/// What turns version `n` into `n + 1`, for each `n` from 0.
const MIGRATIONS: [&[&str]; 4] = [&[V1], &[LOOK_UP_TURNS, V2, LOOKED_UP], &[V3], &[V4]];

/// The second version looks up the beginning of each turn: without an index, it would read the whole history for each.
const LOOK_UP_TURNS: &str = "CREATE INDEX migrating ON history (turn) WHERE kind = 'turn_started';";
const LOOKED_UP: &str = "DROP INDEX migrating;";

/// The version that this program writes.
pub(crate) const VERSION: i64 = MIGRATIONS.len() as i64;

/// The version from which on rows are summed up (`guard`).
pub(crate) const SUMMED: i64 = 3;

const V1: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;

CREATE TABLE history (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    at    INTEGER NOT NULL,
    kind  TEXT NOT NULL,
    turn  INTEGER,
    work  TEXT,
    body  TEXT NOT NULL
);

-- state: unseen | staged | seen. history is the entry that tells it; set once, so that it is told once.
CREATE TABLE inbox (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL,
    state       TEXT NOT NULL,
    wakes       INTEGER NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 0,
    not_before  INTEGER NOT NULL DEFAULT 0,
    turn        INTEGER,
    history     INTEGER,
    stream      TEXT,
    seq         INTEGER,
    note        TEXT UNIQUE,
    body        TEXT NOT NULL,
    UNIQUE (stream, seq)
);
CREATE INDEX inbox_open ON inbox (state, not_before) WHERE state <> 'seen';
CREATE TABLE inbox_works (inbox INTEGER NOT NULL, work TEXT NOT NULL, PRIMARY KEY (work, inbox)) WITHOUT ROWID;
CREATE INDEX inbox_works_of ON inbox_works (inbox);

-- state: pending | undeliverable.
CREATE TABLE outbox (
    seq      INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    body     TEXT NOT NULL,
    state    TEXT NOT NULL DEFAULT 'pending',
    reason   TEXT,
    offers   INTEGER NOT NULL DEFAULT 0,
    outcome  TEXT
);
CREATE INDEX outbox_undeliverable ON outbox (seq) WHERE state = 'undeliverable';

-- One row per life. state: reserved | starting | ready | ended.
CREATE TABLE children (
    name         TEXT NOT NULL,
    incarnation  TEXT NOT NULL,
    at           INTEGER NOT NULL,
    pid          INTEGER,
    state        TEXT NOT NULL,
    lifetime     TEXT NOT NULL,
    worker       TEXT NOT NULL,
    socket       TEXT NOT NULL,
    store        TEXT NOT NULL,
    runtime_dir  TEXT NOT NULL,
    scope        TEXT NOT NULL,
    stream       TEXT,
    terminal     TEXT,
    ended_at     INTEGER,
    PRIMARY KEY (name, incarnation)
) WITHOUT ROWID;
CREATE UNIQUE INDEX children_live ON children (name) WHERE state <> 'ended';

CREATE TABLE descendants (
    name         TEXT NOT NULL,
    incarnation  TEXT NOT NULL,
    parent_name  TEXT NOT NULL,
    parent_incarnation TEXT NOT NULL,
    socket       TEXT NOT NULL,
    scope        TEXT NOT NULL,
    at           INTEGER NOT NULL,
    PRIMARY KEY (name, incarnation)
) WITHOUT ROWID;

CREATE TABLE watermarks (stream TEXT PRIMARY KEY, name TEXT NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;

-- direction: received | delegated. state: open | settled.
CREATE TABLE works (
    work          TEXT PRIMARY KEY,
    direction     TEXT NOT NULL,
    state         TEXT NOT NULL,
    at            INTEGER NOT NULL,
    settled_at    INTEGER,
    origin        TEXT,
    child         TEXT,
    incarnation   TEXT,
    belongs_to    TEXT,
    input         TEXT NOT NULL,
    turn          INTEGER,
    last_result   TEXT,
    result        TEXT
) WITHOUT ROWID;
CREATE INDEX works_open ON works (direction, work) WHERE state = 'open';
CREATE INDEX works_below ON works (belongs_to) WHERE state = 'open' AND belongs_to IS NOT NULL;

CREATE TABLE runs (
    turn    INTEGER PRIMARY KEY,
    work    TEXT NOT NULL UNIQUE,
    at      INTEGER NOT NULL,
    origin  TEXT NOT NULL,
    input   TEXT NOT NULL
);

-- state: running | paused | ended.
CREATE TABLE turns (
    turn        INTEGER PRIMARY KEY,
    state       TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER
);
CREATE INDEX turns_open ON turns (state) WHERE state <> 'ended';
CREATE TABLE turn_works (turn INTEGER NOT NULL, work TEXT NOT NULL, PRIMARY KEY (work, turn)) WITHOUT ROWID;
CREATE INDEX turn_works_of ON turn_works (turn);

CREATE TABLE intents (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    at    INTEGER NOT NULL,
    name  TEXT NOT NULL,
    body  TEXT NOT NULL
);
";

const V2: &str = "
-- history: the entry with which the turn began.
ALTER TABLE turns ADD COLUMN history INTEGER;
ALTER TABLE turns ADD COLUMN cause TEXT;
UPDATE turns SET (history, cause) =
    (SELECT seq, json_extract(body, '$.cause') FROM history WHERE kind = 'turn_started' AND history.turn = turns.turn);

-- Entries that are no part of what the agent knows: rewound, rolled back, or of a compaction. Ranges that do not overlap.
CREATE TABLE left_out (first INTEGER PRIMARY KEY, last INTEGER NOT NULL);

-- seq: the entry that holds the summary; upto: the last entry that it stands for.
CREATE TABLE compactions (seq INTEGER PRIMARY KEY, upto INTEGER NOT NULL);

-- Uses of tools whose result is not committed yet.
CREATE TABLE calls (turn INTEGER NOT NULL, call INTEGER NOT NULL, PRIMARY KEY (turn, call)) WITHOUT ROWID;
";

const V3: &str = "
-- Where an entry of the inbox stands before a summary, and is told again behind it. A rewind may bring that place back.
CREATE TABLE told (inbox INTEGER NOT NULL, history INTEGER NOT NULL, PRIMARY KEY (inbox, history)) WITHOUT ROWID;

-- What the rows come to that are told, done or delivered, so that one that is not as it was written is known (`guard`).
ALTER TABLE history ADD COLUMN sum INTEGER;
ALTER TABLE inbox ADD COLUMN sum INTEGER;
ALTER TABLE outbox ADD COLUMN sum INTEGER;
ALTER TABLE runs ADD COLUMN sum INTEGER;
-- what: `table ..`, the sum of its rows; `commits`, their number; `history from`, the first entry that has a sum.
CREATE TABLE sums (what TEXT PRIMARY KEY, sum INTEGER NOT NULL) WITHOUT ROWID;

-- What is over, so that the oldest of it can go, and what is asked for by other than its key.
CREATE INDEX children_over ON children (ended_at) WHERE state = 'ended';
CREATE INDEX children_by_stream ON children (stream);
CREATE INDEX works_over ON works (settled_at) WHERE state = 'settled';
CREATE INDEX works_of ON works (child, incarnation) WHERE direction = 'delegated';
CREATE INDEX descendants_of ON descendants (parent_name, parent_incarnation);
CREATE INDEX inbox_in_turn ON inbox (turn) WHERE turn IS NOT NULL;

-- restart: the policy, as JSON. restarted: whether the policy has started it. moved_to: the pod whose child it is now.
ALTER TABLE children ADD COLUMN restart TEXT;
ALTER TABLE children ADD COLUMN restarted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE children ADD COLUMN moved_to TEXT;
-- Children of dead pods that are on their way here, as JSON.
CREATE TABLE adoptions (name TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
";

const V4: &str = "
-- given_as: how a child was asked for a work that was delegated: run | follow_up.
ALTER TABLE works ADD COLUMN given_as TEXT NOT NULL DEFAULT 'run';
";

/// Brings a file of version `from` to [`VERSION`], in one transaction.
pub(crate) fn migrate(conn: &mut Connection, from: i64) -> Result<(), StoreError> {
    guard::install(conn).map_err(|source| StoreError::sqlite("migrate", source))?;
    migrate_to(conn, from, &MIGRATIONS, guard::seal)
}

/// Makes an empty file one of the version `version`, as it was shipped.
#[cfg(test)]
pub(crate) fn make_old(conn: &mut Connection, version: usize) {
    migrate_to(conn, 0, &MIGRATIONS[..version], |_| Ok(())).unwrap();
}

fn migrate_to(
    conn: &mut Connection,
    from: i64,
    migrations: &[&[&str]],
    seal: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<(), StoreError> {
    let doing = "migrate";
    let error = |source| StoreError::sqlite(doing, source);
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive).map_err(error)?;
    // Another process may have been faster.
    let from = tx.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).map_err(error)?.max(from);
    let done = usize::try_from(from).unwrap_or(usize::MAX);
    if done >= migrations.len() {
        return Ok(());
    }
    for step in migrations.iter().skip(done).copied().flatten() {
        tx.execute_batch(step).map_err(error)?;
    }
    seal(&tx).map_err(error)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(error)?;
    tx.pragma_update(None, "user_version", migrations.len() as i64).map_err(error)?;
    tx.commit().map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migration_keeps_rows_and_raises_the_version() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate_to(&mut conn, 0, &[&["CREATE TABLE a (x); INSERT INTO a VALUES (7);"]], |_| Ok(())).unwrap();
        migrate_to(&mut conn, 1, &[&["CREATE TABLE a (x);"], &["ALTER TABLE a ADD COLUMN y DEFAULT 8;"]], |_| Ok(()))
            .unwrap();
        let row = conn.query_row("SELECT x, y FROM a", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(row, (7, 8));
        let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(version, 2);
    }

    #[test]
    fn migration_that_fails_leaves_the_old_version_whole() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate_to(&mut conn, 0, &[&["CREATE TABLE a (x);"]], |_| Ok(())).unwrap();
        let steps: [&[&str]; 2] =
            [&["CREATE TABLE a (x);"], &["ALTER TABLE a ADD COLUMN y; ALTER TABLE nowhere ADD COLUMN z;"]];
        assert!(migrate_to(&mut conn, 1, &steps, |_| Ok(())).is_err());
        assert!(conn.prepare("SELECT y FROM a").is_err(), "half a migration was committed");
        let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(version, 1);
    }

    #[test]
    fn turns_of_a_first_version_know_their_beginning_afterwards() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate_to(&mut conn, 0, &MIGRATIONS[..1], |_| Ok(())).unwrap();
        conn.execute_batch(
            r#"INSERT INTO turns (turn, state, started_at) VALUES (1, 'ended', 5), (2, 'paused', 6);
               INSERT INTO history (at, kind, turn, body) VALUES
                   (5, 'turn_started', 1, '{"kind":"turn_started","cause":"run","works":[]}'), (5, 'output', 1, '{}'),
                   (6, 'turn_started', 2, '{"kind":"turn_started","cause":"resume","works":[]}');"#,
        )
        .unwrap();
        migrate(&mut conn, 1).unwrap();
        let mut statement = conn.prepare("SELECT history, cause FROM turns ORDER BY turn").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let rows: Vec<(i64, String)> = rows.map(Result::unwrap).collect();
        assert_eq!(rows, [(1, "run".to_owned()), (3, "resume".to_owned())]);
    }

    /// What the versions come to that were shipped, each the sum of its steps.
    const SHIPPED: [u32; 3] = [0x3110_5151, 0x5eeb_0516, 0x7734_fb9e];

    #[test]
    fn version_that_was_shipped_is_never_edited() {
        for (at, (steps, shipped)) in MIGRATIONS.iter().zip(SHIPPED).enumerate() {
            let (version, next) = (at + 1, SHIPPED.len() + 1);
            assert_eq!(
                crc32fast::hash(steps.concat().as_bytes()),
                shipped,
                "schema V{version} was edited, and files of it are on people's disks: put V{version} back as it was, and \
                 append what is new as V{next}"
            );
        }
        assert!(
            SHIPPED.len() <= MIGRATIONS.len() && MIGRATIONS.len() <= SHIPPED.len() + 1,
            "one version is in the making at most: when it is shipped, add its sum here and a store of it to `golden`"
        );
    }

    #[test]
    fn migrations_all_apply_to_an_empty_file() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn, 0).unwrap();
        let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(version, VERSION);
    }
}
