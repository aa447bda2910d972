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
INSERT INTO "children" VALUES('a','e808bf5c0684d436',1795290327426,26586,'ready','tied','{"kind":"command","command":"echo hello; echo oops >&2"}','/tmp/pods/v2/run/a/pod.sock','/tmp/pods/v2/state/a/store.db','/tmp/pods/v2/run/a','[]','00cbdf9b926529f3',NULL,NULL);
INSERT INTO "children" VALUES('b','49626959934c341c',1795290327426,26584,'ready','tied','{"kind":"command","command":"echo begun; sleep 60; echo done"}','/tmp/pods/v2/run/b/pod.sock','/tmp/pods/v2/state/b/store.db','/tmp/pods/v2/run/b','[]','b407311ab3f5607c',NULL,NULL);
INSERT INTO "children" VALUES('c','7a2f86914b298135',1795290327426,26582,'ready','tied','{"kind":"command","command":"exit 3"}','/tmp/pods/v2/run/c/pod.sock','/tmp/pods/v2/state/c/store.db','/tmp/pods/v2/run/c','[]','636667a579a3c1f6',NULL,NULL);
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
INSERT INTO "history" VALUES(1,1795290327420,'life_started',NULL,NULL,'{"kind":"life_started","pod":{"name":"run","incarnation":"371f6b6981377acc"}}');
INSERT INTO "history" VALUES(2,1795290327426,'child_spawned',NULL,NULL,'{"kind":"child_spawned","child":{"name":"c","incarnation":"7a2f86914b298135"},"lifetime":"tied"}');
INSERT INTO "history" VALUES(3,1795290327426,'child_spawned',NULL,NULL,'{"kind":"child_spawned","child":{"name":"a","incarnation":"e808bf5c0684d436"},"lifetime":"tied"}');
INSERT INTO "history" VALUES(4,1795290327426,'child_spawned',NULL,NULL,'{"kind":"child_spawned","child":{"name":"b","incarnation":"49626959934c341c"},"lifetime":"tied"}');
INSERT INTO "history" VALUES(5,1795290327462,'child_ready',NULL,NULL,'{"kind":"child_ready","child":{"name":"a","incarnation":"e808bf5c0684d436"}}');
INSERT INTO "history" VALUES(6,1795290327494,'child_ready',NULL,NULL,'{"kind":"child_ready","child":{"name":"c","incarnation":"7a2f86914b298135"}}');
INSERT INTO "history" VALUES(7,1795290327510,'child_ready',NULL,NULL,'{"kind":"child_ready","child":{"name":"b","incarnation":"49626959934c341c"}}');
INSERT INTO "history" VALUES(8,1795290327517,'work_delegated',NULL,'eec480943fd68eb6','{"kind":"work_delegated","child":{"name":"a","incarnation":"e808bf5c0684d436"},"input":"echo hello; echo oops >&2"}');
INSERT INTO "history" VALUES(9,1795290327517,'work_delegated',NULL,'7acad10882b545cd','{"kind":"work_delegated","child":{"name":"c","incarnation":"7a2f86914b298135"},"input":"exit 3"}');
INSERT INTO "history" VALUES(10,1795290327519,'work_delegated',NULL,'c18791b613ede8ba','{"kind":"work_delegated","child":{"name":"b","incarnation":"49626959934c341c"},"input":"echo begun; sleep 60; echo done"}');
INSERT INTO "history" VALUES(11,1795290327540,'turn_started',1,NULL,'{"kind":"turn_started","cause":"reports","works":[]}');
INSERT INTO "history" VALUES(12,1795290327540,'system_item',1,NULL,'{"kind":"system_item","item":"report","key":{"stream":"636667a579a3c1f6","seq":1},"event":{"reported":{"Errored":{"pod":{"name":"c","incarnation":"7a2f86914b298135"},"work":"7acad10882b545cd","turn":1,"message":"the command exited with code 3"}}},"text":"[report of pod `c` (7a2f86914b298135), not the user''s words] Turn 1 of work 7acad10882b545cd failed. It said:\n| the command exited with code 3\nMore: ReadPodOutput { pod: \"c\" }."}');
INSERT INTO "history" VALUES(13,1795290327541,'work_settled',NULL,'7acad10882b545cd','{"kind":"work_settled","result":"Failed","child":"c"}');
INSERT INTO "history" VALUES(14,1795290327542,'work_settled',NULL,'eec480943fd68eb6','{"kind":"work_settled","result":"Finished","child":"a"}');
INSERT INTO "history" VALUES(15,1795290327543,'system_item',1,NULL,'{"kind":"system_item","item":"report","key":{"stream":"636667a579a3c1f6","seq":2},"event":{"reported":{"WorkSettled":{"pod":{"name":"c","incarnation":"7a2f86914b298135"},"work":"7acad10882b545cd","result":"Failed"}}},"text":"[report of pod `c` (7a2f86914b298135), not the user''s words] Work 7acad10882b545cd is over, with all that it caused: failed. More: ReadPodOutput { pod: \"c\" }."}');
INSERT INTO "history" VALUES(16,1795290327543,'system_item',1,NULL,'{"kind":"system_item","item":"report","key":{"stream":"00cbdf9b926529f3","seq":1},"event":{"reported":{"TurnEnded":{"pod":{"name":"a","incarnation":"e808bf5c0684d436"},"work":"eec480943fd68eb6","turn":1,"result":"Finished"}}},"text":"[report of pod `a` (e808bf5c0684d436), not the user''s words] Turn 1 of work eec480943fd68eb6 finished. More: ReadPodOutput { pod: \"a\" }."}');
INSERT INTO "history" VALUES(17,1795290327543,'system_item',1,NULL,'{"kind":"system_item","item":"report","key":{"stream":"00cbdf9b926529f3","seq":2},"event":{"reported":{"WorkSettled":{"pod":{"name":"a","incarnation":"e808bf5c0684d436"},"work":"eec480943fd68eb6","result":"Finished"}}},"text":"[report of pod `a` (e808bf5c0684d436), not the user''s words] Work eec480943fd68eb6 is over, with all that it caused: finished. More: ReadPodOutput { pod: \"a\" }."}');
INSERT INTO "history" VALUES(18,1795290327544,'output',1,NULL,'{"kind":"output","output":"text","text":"[report of pod `c` (7a2f86914b298135), not the user''s words] Turn 1 of work 7acad10882b545cd failed. It said:\n| the command exited with code 3\nMore: ReadPodOutput { pod: \"c\" }."}');
INSERT INTO "history" VALUES(19,1795290327544,'output',1,NULL,'{"kind":"output","output":"text","text":"[report of pod `c` (7a2f86914b298135), not the user''s words] Work 7acad10882b545cd is over, with all that it caused: failed. More: ReadPodOutput { pod: \"c\" }."}');
INSERT INTO "history" VALUES(20,1795290327544,'output',1,NULL,'{"kind":"output","output":"text","text":"[report of pod `a` (e808bf5c0684d436), not the user''s words] Turn 1 of work eec480943fd68eb6 finished. More: ReadPodOutput { pod: \"a\" }."}');
INSERT INTO "history" VALUES(21,1795290327545,'output',1,NULL,'{"kind":"output","output":"text","text":"[report of pod `a` (e808bf5c0684d436), not the user''s words] Work eec480943fd68eb6 is over, with all that it caused: finished. More: ReadPodOutput { pod: \"a\" }."}');
INSERT INTO "history" VALUES(22,1795290327545,'turn_ended',1,NULL,'{"kind":"turn_ended","outcome":{"how":"ended","result":"Finished"}}');
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
INSERT INTO "inbox" VALUES(1,1795290327538,'seen',1,0,0,1,12,'636667a579a3c1f6',1,NULL,'{"item":"report","key":{"stream":"636667a579a3c1f6","seq":1},"event":{"reported":{"Errored":{"pod":{"name":"c","incarnation":"7a2f86914b298135"},"work":"7acad10882b545cd","turn":1,"message":"the command exited with code 3"}}},"text":"[report of pod `c` (7a2f86914b298135), not the user''s words] Turn 1 of work 7acad10882b545cd failed. It said:\n| the command exited with code 3\nMore: ReadPodOutput { pod: \"c\" }."}');
INSERT INTO "inbox" VALUES(2,1795290327541,'seen',1,0,0,1,15,'636667a579a3c1f6',2,NULL,'{"item":"report","key":{"stream":"636667a579a3c1f6","seq":2},"event":{"reported":{"WorkSettled":{"pod":{"name":"c","incarnation":"7a2f86914b298135"},"work":"7acad10882b545cd","result":"Failed"}}},"text":"[report of pod `c` (7a2f86914b298135), not the user''s words] Work 7acad10882b545cd is over, with all that it caused: failed. More: ReadPodOutput { pod: \"c\" }."}');
INSERT INTO "inbox" VALUES(3,1795290327541,'seen',1,0,0,1,16,'00cbdf9b926529f3',1,NULL,'{"item":"report","key":{"stream":"00cbdf9b926529f3","seq":1},"event":{"reported":{"TurnEnded":{"pod":{"name":"a","incarnation":"e808bf5c0684d436"},"work":"eec480943fd68eb6","turn":1,"result":"Finished"}}},"text":"[report of pod `a` (e808bf5c0684d436), not the user''s words] Turn 1 of work eec480943fd68eb6 finished. More: ReadPodOutput { pod: \"a\" }."}');
INSERT INTO "inbox" VALUES(4,1795290327542,'seen',1,0,0,1,17,'00cbdf9b926529f3',2,NULL,'{"item":"report","key":{"stream":"00cbdf9b926529f3","seq":2},"event":{"reported":{"WorkSettled":{"pod":{"name":"a","incarnation":"e808bf5c0684d436"},"work":"eec480943fd68eb6","result":"Finished"}}},"text":"[report of pod `a` (e808bf5c0684d436), not the user''s words] Work eec480943fd68eb6 is over, with all that it caused: finished. More: ReadPodOutput { pod: \"a\" }."}');
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
INSERT INTO "meta" VALUES('created_at',1795290327419);
INSERT INTO "meta" VALUES('next_seq',1);
INSERT INTO "meta" VALUES('next_turn',2);
INSERT INTO "meta" VALUES('pod','run');
INSERT INTO "meta" VALUES('stream','3f4102ae61533ec6');
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
, history INTEGER, cause TEXT);
INSERT INTO "turns" VALUES(1,'ended',1795290327540,1795290327545,11,'reports');
CREATE TABLE watermarks (stream TEXT PRIMARY KEY, name TEXT NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "watermarks" VALUES('00cbdf9b926529f3','a',2);
INSERT INTO "watermarks" VALUES('636667a579a3c1f6','c',2);
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
INSERT INTO "works" VALUES('7acad10882b545cd','delegated','settled',1795290327517,1795290327541,NULL,'c','7a2f86914b298135',NULL,'exit 3',1,NULL,'"Failed"');
INSERT INTO "works" VALUES('c18791b613ede8ba','delegated','open',1795290327519,NULL,NULL,'b','49626959934c341c',NULL,'echo begun; sleep 60; echo done',1,NULL,NULL);
INSERT INTO "works" VALUES('eec480943fd68eb6','delegated','settled',1795290327517,1795290327542,NULL,'a','e808bf5c0684d436',NULL,'echo hello; echo oops >&2',1,NULL,'"Finished"');
CREATE INDEX inbox_open ON inbox (state, not_before) WHERE state <> 'seen';
CREATE INDEX inbox_works_of ON inbox_works (inbox);
CREATE INDEX outbox_undeliverable ON outbox (seq) WHERE state = 'undeliverable';
CREATE UNIQUE INDEX children_live ON children (name) WHERE state <> 'ended';
CREATE INDEX works_open ON works (direction, work) WHERE state = 'open';
CREATE INDEX works_below ON works (belongs_to) WHERE state = 'open' AND belongs_to IS NOT NULL;
CREATE INDEX turns_open ON turns (state) WHERE state <> 'ended';
CREATE INDEX turn_works_of ON turn_works (turn);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('history',22);
INSERT INTO "sqlite_sequence" VALUES('inbox',4);
COMMIT;
