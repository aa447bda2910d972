-- A store of version 2, as its program has left it: never edited, never made anew.
PRAGMA application_id = 1886348403;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
CREATE TABLE calls (turn INTEGER NOT NULL, call INTEGER NOT NULL, PRIMARY KEY (turn, call)) WITHOUT ROWID;
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
CREATE TABLE compactions (seq INTEGER PRIMARY KEY, upto INTEGER NOT NULL);
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
CREATE TABLE history (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    at    INTEGER NOT NULL,
    kind  TEXT NOT NULL,
    turn  INTEGER,
    work  TEXT,
    body  TEXT NOT NULL
);
INSERT INTO "history" VALUES(1,1795290327467,'life_started',NULL,NULL,'{"kind":"life_started","pod":{"name":"b","incarnation":"49626959934c341c"}}');
INSERT INTO "history" VALUES(2,1795290327527,'turn_started',1,'c18791b613ede8ba','{"kind":"turn_started","cause":"run","works":["c18791b613ede8ba"]}');
INSERT INTO "history" VALUES(3,1795290327527,'user_input',1,'c18791b613ede8ba','{"kind":"user_input","origin":{"from":"parent","pod":{"name":"run","incarnation":"371f6b6981377acc"}},"text":"echo begun; sleep 60; echo done"}');
INSERT INTO "history" VALUES(4,1795290327537,'output',1,'c18791b613ede8ba','{"kind":"output","output":"text","text":"begun\n"}');
INSERT INTO "history" VALUES(5,1795290331182,'turn_ended',1,'c18791b613ede8ba','{"kind":"turn_ended","outcome":{"how":"ended","result":"Interrupted"}}');
INSERT INTO "history" VALUES(6,1795290331182,'work_settled',NULL,'c18791b613ede8ba','{"kind":"work_settled","result":"Interrupted"}');
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
CREATE TABLE inbox_works (inbox INTEGER NOT NULL, work TEXT NOT NULL, PRIMARY KEY (work, inbox)) WITHOUT ROWID;
CREATE TABLE intents (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    at    INTEGER NOT NULL,
    name  TEXT NOT NULL,
    body  TEXT NOT NULL
);
CREATE TABLE left_out (first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('acked_seq',0);
INSERT INTO "meta" VALUES('created_at',1795290327457);
INSERT INTO "meta" VALUES('last_outcome','`pod_event_offer` was not delivered: nothing listens at unix:/tmp/pods/v2/run/run/pod.sock (Connection refused (os error 111)); start the service or correct the address');
INSERT INTO "meta" VALUES('next_seq',4);
INSERT INTO "meta" VALUES('next_turn',2);
INSERT INTO "meta" VALUES('pod','b');
INSERT INTO "meta" VALUES('stream','b407311ab3f5607c');
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
INSERT INTO "outbox" VALUES(1,1795290331182,'turn_ended','{"TurnEnded":{"pod":{"name":"b","incarnation":"49626959934c341c"},"work":"c18791b613ede8ba","turn":1,"result":"Interrupted"}}','pending',NULL,9,'`pod_event_offer` was not delivered: nothing listens at unix:/tmp/pods/v2/run/run/pod.sock (Connection refused (os error 111)); start the service or correct the address');
INSERT INTO "outbox" VALUES(2,1795290331182,'work_settled','{"WorkSettled":{"pod":{"name":"b","incarnation":"49626959934c341c"},"work":"c18791b613ede8ba","result":"Interrupted"}}','pending',NULL,0,NULL);
INSERT INTO "outbox" VALUES(3,1795290331185,'shut_down','{"ShutDown":{"pod":{"name":"b","incarnation":"49626959934c341c"}}}','pending',NULL,0,NULL);
CREATE TABLE runs (
    turn    INTEGER PRIMARY KEY,
    work    TEXT NOT NULL UNIQUE,
    at      INTEGER NOT NULL,
    origin  TEXT NOT NULL,
    input   TEXT NOT NULL
);
CREATE TABLE turn_works (turn INTEGER NOT NULL, work TEXT NOT NULL, PRIMARY KEY (work, turn)) WITHOUT ROWID;
INSERT INTO "turn_works" VALUES(1,'c18791b613ede8ba');
CREATE TABLE turns (
    turn        INTEGER PRIMARY KEY,
    state       TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER
, history INTEGER, cause TEXT);
INSERT INTO "turns" VALUES(1,'ended',1795290327527,1795290331182,2,'run');
CREATE TABLE watermarks (stream TEXT PRIMARY KEY, name TEXT NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;
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
INSERT INTO "works" VALUES('c18791b613ede8ba','received','settled',1795290327523,1795290331182,'{"from":"parent","pod":{"name":"run","incarnation":"371f6b6981377acc"}}',NULL,NULL,NULL,'echo begun; sleep 60; echo done',1,'"Interrupted"','"Interrupted"');
CREATE INDEX inbox_open ON inbox (state, not_before) WHERE state <> 'seen';
CREATE INDEX inbox_works_of ON inbox_works (inbox);
CREATE INDEX outbox_undeliverable ON outbox (seq) WHERE state = 'undeliverable';
CREATE UNIQUE INDEX children_live ON children (name) WHERE state <> 'ended';
CREATE INDEX works_open ON works (direction, work) WHERE state = 'open';
CREATE INDEX works_below ON works (belongs_to) WHERE state = 'open' AND belongs_to IS NOT NULL;
CREATE INDEX turns_open ON turns (state) WHERE state <> 'ended';
CREATE INDEX turn_works_of ON turn_works (turn);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('history',6);
COMMIT;
