-- A store of version 1, as its program has left it: never edited, never made anew.
PRAGMA application_id = 1886348403;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
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
INSERT INTO "children" VALUES('a','d2bd066c6c4956fb',1795290320567,26051,'ready','tied','{"kind":"command","command":"echo hello; echo oops >&2"}','/tmp/pods/v1/run/a/pod.sock','/tmp/pods/v1/state/a/store.db','/tmp/pods/v1/run/a','[]','45d3099c6bedefb7',NULL,NULL);
INSERT INTO "children" VALUES('b','07fa6ef00e3f2dca',1795290320567,26052,'ready','tied','{"kind":"command","command":"echo begun; sleep 60; echo done"}','/tmp/pods/v1/run/b/pod.sock','/tmp/pods/v1/state/b/store.db','/tmp/pods/v1/run/b','[]','f18981aa543cf7a6',NULL,NULL);
INSERT INTO "children" VALUES('c','82489bed3d2991cf',1795290320566,26050,'ready','tied','{"kind":"command","command":"exit 3"}','/tmp/pods/v1/run/c/pod.sock','/tmp/pods/v1/state/c/store.db','/tmp/pods/v1/run/c','[]','f038b5666d547628',NULL,NULL);
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
INSERT INTO "history" VALUES(1,1795290320559,'life_started',NULL,NULL,'{"kind":"life_started","pod":{"name":"run","incarnation":"d7c21d541f56fc4e"}}');
INSERT INTO "history" VALUES(2,1795290320566,'child_spawned',NULL,NULL,'{"kind":"child_spawned","child":{"name":"c","incarnation":"82489bed3d2991cf"},"lifetime":"tied"}');
INSERT INTO "history" VALUES(3,1795290320567,'child_spawned',NULL,NULL,'{"kind":"child_spawned","child":{"name":"a","incarnation":"d2bd066c6c4956fb"},"lifetime":"tied"}');
INSERT INTO "history" VALUES(4,1795290320567,'child_spawned',NULL,NULL,'{"kind":"child_spawned","child":{"name":"b","incarnation":"07fa6ef00e3f2dca"},"lifetime":"tied"}');
INSERT INTO "history" VALUES(5,1795290320650,'child_ready',NULL,NULL,'{"kind":"child_ready","child":{"name":"a","incarnation":"d2bd066c6c4956fb"}}');
INSERT INTO "history" VALUES(6,1795290320664,'work_delegated',NULL,'f0ad71af7764b708','{"kind":"work_delegated","child":{"name":"a","incarnation":"d2bd066c6c4956fb"},"input":"echo hello; echo oops >&2"}');
INSERT INTO "history" VALUES(7,1795290320664,'child_ready',NULL,NULL,'{"kind":"child_ready","child":{"name":"c","incarnation":"82489bed3d2991cf"}}');
INSERT INTO "history" VALUES(8,1795290320667,'child_ready',NULL,NULL,'{"kind":"child_ready","child":{"name":"b","incarnation":"07fa6ef00e3f2dca"}}');
INSERT INTO "history" VALUES(9,1795290320675,'work_delegated',NULL,'8de3eec17dd3989e','{"kind":"work_delegated","child":{"name":"c","incarnation":"82489bed3d2991cf"},"input":"exit 3"}');
INSERT INTO "history" VALUES(10,1795290320677,'work_delegated',NULL,'a7c9f281a3438b7b','{"kind":"work_delegated","child":{"name":"b","incarnation":"07fa6ef00e3f2dca"},"input":"echo begun; sleep 60; echo done"}');
INSERT INTO "history" VALUES(11,1795290320682,'turn_started',1,NULL,'{"kind":"turn_started","cause":"reports","works":[]}');
INSERT INTO "history" VALUES(12,1795290320682,'system_item',1,NULL,'{"kind":"system_item","item":"report","key":{"stream":"45d3099c6bedefb7","seq":1},"event":{"reported":{"TurnEnded":{"pod":{"name":"a","incarnation":"d2bd066c6c4956fb"},"work":"f0ad71af7764b708","turn":1,"result":"Finished"}}},"text":"[report of pod `a` (d2bd066c6c4956fb), not the user''s words] Turn 1 of work f0ad71af7764b708 finished. More: ReadPodOutput { pod: \"a\" }."}');
INSERT INTO "history" VALUES(13,1795290320683,'work_settled',NULL,'f0ad71af7764b708','{"kind":"work_settled","result":"Finished","child":"a"}');
INSERT INTO "history" VALUES(14,1795290320684,'system_item',1,NULL,'{"kind":"system_item","item":"report","key":{"stream":"45d3099c6bedefb7","seq":2},"event":{"reported":{"WorkSettled":{"pod":{"name":"a","incarnation":"d2bd066c6c4956fb"},"work":"f0ad71af7764b708","result":"Finished"}}},"text":"[report of pod `a` (d2bd066c6c4956fb), not the user''s words] Work f0ad71af7764b708 is over, with all that it caused: finished. More: ReadPodOutput { pod: \"a\" }."}');
INSERT INTO "history" VALUES(15,1795290320685,'output',1,NULL,'{"kind":"output","output":"text","text":"[report of pod `a` (d2bd066c6c4956fb), not the user''s words] Turn 1 of work f0ad71af7764b708 finished. More: ReadPodOutput { pod: \"a\" }."}');
INSERT INTO "history" VALUES(16,1795290320686,'output',1,NULL,'{"kind":"output","output":"text","text":"[report of pod `a` (d2bd066c6c4956fb), not the user''s words] Work f0ad71af7764b708 is over, with all that it caused: finished. More: ReadPodOutput { pod: \"a\" }."}');
INSERT INTO "history" VALUES(17,1795290320686,'turn_ended',1,NULL,'{"kind":"turn_ended","outcome":{"how":"ended","result":"Finished"}}');
INSERT INTO "history" VALUES(18,1795290320716,'work_settled',NULL,'8de3eec17dd3989e','{"kind":"work_settled","result":"Failed","child":"c"}');
INSERT INTO "history" VALUES(19,1795290320736,'turn_started',2,NULL,'{"kind":"turn_started","cause":"reports","works":[]}');
INSERT INTO "history" VALUES(20,1795290320736,'system_item',2,NULL,'{"kind":"system_item","item":"report","key":{"stream":"f038b5666d547628","seq":1},"event":{"reported":{"Errored":{"pod":{"name":"c","incarnation":"82489bed3d2991cf"},"work":"8de3eec17dd3989e","turn":1,"message":"the command exited with code 3"}}},"text":"[report of pod `c` (82489bed3d2991cf), not the user''s words] Turn 1 of work 8de3eec17dd3989e failed. It said:\n| the command exited with code 3\nMore: ReadPodOutput { pod: \"c\" }."}');
INSERT INTO "history" VALUES(21,1795290320736,'system_item',2,NULL,'{"kind":"system_item","item":"report","key":{"stream":"f038b5666d547628","seq":2},"event":{"reported":{"WorkSettled":{"pod":{"name":"c","incarnation":"82489bed3d2991cf"},"work":"8de3eec17dd3989e","result":"Failed"}}},"text":"[report of pod `c` (82489bed3d2991cf), not the user''s words] Work 8de3eec17dd3989e is over, with all that it caused: failed. More: ReadPodOutput { pod: \"c\" }."}');
INSERT INTO "history" VALUES(22,1795290320738,'output',2,NULL,'{"kind":"output","output":"text","text":"[report of pod `c` (82489bed3d2991cf), not the user''s words] Turn 1 of work 8de3eec17dd3989e failed. It said:\n| the command exited with code 3\nMore: ReadPodOutput { pod: \"c\" }."}');
INSERT INTO "history" VALUES(23,1795290320738,'output',2,NULL,'{"kind":"output","output":"text","text":"[report of pod `c` (82489bed3d2991cf), not the user''s words] Work 8de3eec17dd3989e is over, with all that it caused: failed. More: ReadPodOutput { pod: \"c\" }."}');
INSERT INTO "history" VALUES(24,1795290320739,'turn_ended',2,NULL,'{"kind":"turn_ended","outcome":{"how":"ended","result":"Finished"}}');
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
INSERT INTO "inbox" VALUES(1,1795290320681,'seen',1,0,0,1,12,'45d3099c6bedefb7',1,NULL,'{"item":"report","key":{"stream":"45d3099c6bedefb7","seq":1},"event":{"reported":{"TurnEnded":{"pod":{"name":"a","incarnation":"d2bd066c6c4956fb"},"work":"f0ad71af7764b708","turn":1,"result":"Finished"}}},"text":"[report of pod `a` (d2bd066c6c4956fb), not the user''s words] Turn 1 of work f0ad71af7764b708 finished. More: ReadPodOutput { pod: \"a\" }."}');
INSERT INTO "inbox" VALUES(2,1795290320683,'seen',1,0,0,1,14,'45d3099c6bedefb7',2,NULL,'{"item":"report","key":{"stream":"45d3099c6bedefb7","seq":2},"event":{"reported":{"WorkSettled":{"pod":{"name":"a","incarnation":"d2bd066c6c4956fb"},"work":"f0ad71af7764b708","result":"Finished"}}},"text":"[report of pod `a` (d2bd066c6c4956fb), not the user''s words] Work f0ad71af7764b708 is over, with all that it caused: finished. More: ReadPodOutput { pod: \"a\" }."}');
INSERT INTO "inbox" VALUES(3,1795290320716,'seen',1,0,0,2,20,'f038b5666d547628',1,NULL,'{"item":"report","key":{"stream":"f038b5666d547628","seq":1},"event":{"reported":{"Errored":{"pod":{"name":"c","incarnation":"82489bed3d2991cf"},"work":"8de3eec17dd3989e","turn":1,"message":"the command exited with code 3"}}},"text":"[report of pod `c` (82489bed3d2991cf), not the user''s words] Turn 1 of work 8de3eec17dd3989e failed. It said:\n| the command exited with code 3\nMore: ReadPodOutput { pod: \"c\" }."}');
INSERT INTO "inbox" VALUES(4,1795290320716,'seen',1,0,0,2,21,'f038b5666d547628',2,NULL,'{"item":"report","key":{"stream":"f038b5666d547628","seq":2},"event":{"reported":{"WorkSettled":{"pod":{"name":"c","incarnation":"82489bed3d2991cf"},"work":"8de3eec17dd3989e","result":"Failed"}}},"text":"[report of pod `c` (82489bed3d2991cf), not the user''s words] Work 8de3eec17dd3989e is over, with all that it caused: failed. More: ReadPodOutput { pod: \"c\" }."}');
CREATE TABLE inbox_works (inbox INTEGER NOT NULL, work TEXT NOT NULL, PRIMARY KEY (work, inbox)) WITHOUT ROWID;
CREATE TABLE intents (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    at    INTEGER NOT NULL,
    name  TEXT NOT NULL,
    body  TEXT NOT NULL
);
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('acked_seq',0);
INSERT INTO "meta" VALUES('created_at',1795290320558);
INSERT INTO "meta" VALUES('next_seq',1);
INSERT INTO "meta" VALUES('next_turn',3);
INSERT INTO "meta" VALUES('pod','run');
INSERT INTO "meta" VALUES('stream','dc3e4608ebb15309');
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
CREATE TABLE runs (
    turn    INTEGER PRIMARY KEY,
    work    TEXT NOT NULL UNIQUE,
    at      INTEGER NOT NULL,
    origin  TEXT NOT NULL,
    input   TEXT NOT NULL
);
CREATE TABLE turn_works (turn INTEGER NOT NULL, work TEXT NOT NULL, PRIMARY KEY (work, turn)) WITHOUT ROWID;
CREATE TABLE turns (
    turn        INTEGER PRIMARY KEY,
    state       TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER
);
INSERT INTO "turns" VALUES(1,'ended',1795290320682,1795290320686);
INSERT INTO "turns" VALUES(2,'ended',1795290320736,1795290320739);
CREATE TABLE watermarks (stream TEXT PRIMARY KEY, name TEXT NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "watermarks" VALUES('45d3099c6bedefb7','a',2);
INSERT INTO "watermarks" VALUES('f038b5666d547628','c',2);
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
INSERT INTO "works" VALUES('8de3eec17dd3989e','delegated','settled',1795290320675,1795290320716,NULL,'c','82489bed3d2991cf',NULL,'exit 3',1,NULL,'"Failed"');
INSERT INTO "works" VALUES('a7c9f281a3438b7b','delegated','open',1795290320677,NULL,NULL,'b','07fa6ef00e3f2dca',NULL,'echo begun; sleep 60; echo done',1,NULL,NULL);
INSERT INTO "works" VALUES('f0ad71af7764b708','delegated','settled',1795290320664,1795290320683,NULL,'a','d2bd066c6c4956fb',NULL,'echo hello; echo oops >&2',1,NULL,'"Finished"');
CREATE INDEX inbox_open ON inbox (state, not_before) WHERE state <> 'seen';
CREATE INDEX inbox_works_of ON inbox_works (inbox);
CREATE INDEX outbox_undeliverable ON outbox (seq) WHERE state = 'undeliverable';
CREATE UNIQUE INDEX children_live ON children (name) WHERE state <> 'ended';
CREATE INDEX works_open ON works (direction, work) WHERE state = 'open';
CREATE INDEX works_below ON works (belongs_to) WHERE state = 'open' AND belongs_to IS NOT NULL;
CREATE INDEX turns_open ON turns (state) WHERE state <> 'ended';
CREATE INDEX turn_works_of ON turn_works (turn);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('history',24);
INSERT INTO "sqlite_sequence" VALUES('inbox',4);
COMMIT;
