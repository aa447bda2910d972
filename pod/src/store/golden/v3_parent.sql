-- A store of version 3, as its program has left it: never edited, never made anew.
PRAGMA application_id = 1886348403;
PRAGMA user_version = 3;
BEGIN TRANSACTION;
CREATE TABLE adoptions (name TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
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
    ended_at     INTEGER, restart TEXT, restarted INTEGER NOT NULL DEFAULT 0, moved_to TEXT,
    PRIMARY KEY (name, incarnation)
) WITHOUT ROWID;
INSERT INTO "children" VALUES('a','23b163e5ee0a7044',1795290334665,27092,'ready','tied','{"kind":"command","command":"echo hello; echo oops >&2"}','/tmp/pods/v3/run/a/pod.sock','/tmp/pods/v3/state/a/store.db','/tmp/pods/v3/run/a','[]','8c7c9e028b1fbf0c',NULL,NULL,'{"when":"never","max":3,"within_ms":60000}',0,NULL);
INSERT INTO "children" VALUES('b','cf867e29cce4d94a',1795290334666,27094,'ready','tied','{"kind":"command","command":"echo begun; sleep 60; echo done"}','/tmp/pods/v3/run/b/pod.sock','/tmp/pods/v3/state/b/store.db','/tmp/pods/v3/run/b','[]','6da3ec9a86520f1c',NULL,NULL,'{"when":"never","max":3,"within_ms":60000}',0,NULL);
INSERT INTO "children" VALUES('c','8a89db6b3a4c531b',1795290334666,27093,'ready','tied','{"kind":"command","command":"exit 3"}','/tmp/pods/v3/run/c/pod.sock','/tmp/pods/v3/state/c/store.db','/tmp/pods/v3/run/c','[]','5f4f260de995fc0b',NULL,NULL,'{"when":"never","max":3,"within_ms":60000}',0,NULL);
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
, sum INTEGER);
INSERT INTO "history" VALUES(1,1795290334655,'life_started',NULL,NULL,'{"kind":"life_started","pod":{"name":"run","incarnation":"e9e61c90cceb21ad"}}',5066633458);
INSERT INTO "history" VALUES(2,1795290334665,'child_spawned',NULL,NULL,'{"kind":"child_spawned","child":{"name":"a","incarnation":"23b163e5ee0a7044"},"lifetime":"tied"}',7575381314);
INSERT INTO "history" VALUES(3,1795290334666,'child_spawned',NULL,NULL,'{"kind":"child_spawned","child":{"name":"c","incarnation":"8a89db6b3a4c531b"},"lifetime":"tied"}',8128458175);
INSERT INTO "history" VALUES(4,1795290334666,'child_spawned',NULL,NULL,'{"kind":"child_spawned","child":{"name":"b","incarnation":"cf867e29cce4d94a"},"lifetime":"tied"}',7808393334);
INSERT INTO "history" VALUES(5,1795290334817,'child_ready',NULL,NULL,'{"kind":"child_ready","child":{"name":"c","incarnation":"8a89db6b3a4c531b"}}',8527173756);
INSERT INTO "history" VALUES(6,1795290334845,'child_ready',NULL,NULL,'{"kind":"child_ready","child":{"name":"b","incarnation":"cf867e29cce4d94a"}}',5394143766);
INSERT INTO "history" VALUES(7,1795290334846,'child_ready',NULL,NULL,'{"kind":"child_ready","child":{"name":"a","incarnation":"23b163e5ee0a7044"}}',8036171553);
INSERT INTO "history" VALUES(8,1795290334846,'work_delegated',NULL,'1e234ae6b53469bd','{"kind":"work_delegated","child":{"name":"c","incarnation":"8a89db6b3a4c531b"},"input":"exit 3"}',4702342269);
INSERT INTO "history" VALUES(9,1795290334859,'work_delegated',NULL,'a7de61a34044a4ab','{"kind":"work_delegated","child":{"name":"b","incarnation":"cf867e29cce4d94a"},"input":"echo begun; sleep 60; echo done"}',6741183633);
INSERT INTO "history" VALUES(10,1795290334861,'work_delegated',NULL,'2fc4c800ccbac403','{"kind":"work_delegated","child":{"name":"a","incarnation":"23b163e5ee0a7044"},"input":"echo hello; echo oops >&2"}',5524297778);
INSERT INTO "history" VALUES(11,1795290334868,'work_settled',NULL,'1e234ae6b53469bd','{"kind":"work_settled","result":"Failed","child":"c"}',7248146882);
INSERT INTO "history" VALUES(12,1795290334872,'turn_started',1,NULL,'{"kind":"turn_started","cause":"reports","works":[]}',7420642488);
INSERT INTO "history" VALUES(13,1795290334872,'system_item',1,NULL,'{"kind":"system_item","item":"report","key":{"stream":"5f4f260de995fc0b","seq":1},"event":{"reported":{"Errored":{"pod":{"name":"c","incarnation":"8a89db6b3a4c531b"},"work":"1e234ae6b53469bd","turn":1,"kind":"other","message":"the command exited with code 3"}}},"text":"[report of pod `c` (8a89db6b3a4c531b), not the user''s words] Turn 1 of work 1e234ae6b53469bd failed. It said:\n| the command exited with code 3\nMore: ReadPodOutput { pod: \"c\" }."}',4622087488);
INSERT INTO "history" VALUES(14,1795290334872,'system_item',1,NULL,'{"kind":"system_item","item":"report","key":{"stream":"5f4f260de995fc0b","seq":2},"event":{"reported":{"WorkSettled":{"pod":{"name":"c","incarnation":"8a89db6b3a4c531b"},"work":"1e234ae6b53469bd","result":"Failed"}}},"text":"[report of pod `c` (8a89db6b3a4c531b), not the user''s words] Work 1e234ae6b53469bd is over, with all that it caused: failed. More: ReadPodOutput { pod: \"c\" }."}',4325306006);
INSERT INTO "history" VALUES(15,1795290334874,'output',1,NULL,'{"kind":"output","output":"text","text":"[report of pod `c` (8a89db6b3a4c531b), not the user''s words] Turn 1 of work 1e234ae6b53469bd failed. It said:\n| the command exited with code 3\nMore: ReadPodOutput { pod: \"c\" }."}',4756285786);
INSERT INTO "history" VALUES(16,1795290334874,'output',1,NULL,'{"kind":"output","output":"text","text":"[report of pod `c` (8a89db6b3a4c531b), not the user''s words] Work 1e234ae6b53469bd is over, with all that it caused: failed. More: ReadPodOutput { pod: \"c\" }."}',7822221523);
INSERT INTO "history" VALUES(17,1795290334875,'turn_ended',1,NULL,'{"kind":"turn_ended","outcome":{"how":"ended","result":"Finished"}}',4952205995);
INSERT INTO "history" VALUES(18,1795290334896,'work_settled',NULL,'2fc4c800ccbac403','{"kind":"work_settled","result":"Finished","child":"a"}',5108857465);
INSERT INTO "history" VALUES(19,1795290334897,'turn_started',2,NULL,'{"kind":"turn_started","cause":"reports","works":[]}',5797426238);
INSERT INTO "history" VALUES(20,1795290334897,'system_item',2,NULL,'{"kind":"system_item","item":"report","key":{"stream":"8c7c9e028b1fbf0c","seq":1},"event":{"reported":{"TurnEnded":{"pod":{"name":"a","incarnation":"23b163e5ee0a7044"},"work":"2fc4c800ccbac403","turn":1,"result":"Finished"}}},"text":"[report of pod `a` (23b163e5ee0a7044), not the user''s words] Turn 1 of work 2fc4c800ccbac403 finished. More: ReadPodOutput { pod: \"a\" }."}',7372702698);
INSERT INTO "history" VALUES(21,1795290334897,'system_item',2,NULL,'{"kind":"system_item","item":"report","key":{"stream":"8c7c9e028b1fbf0c","seq":2},"event":{"reported":{"WorkSettled":{"pod":{"name":"a","incarnation":"23b163e5ee0a7044"},"work":"2fc4c800ccbac403","result":"Finished"}}},"text":"[report of pod `a` (23b163e5ee0a7044), not the user''s words] Work 2fc4c800ccbac403 is over, with all that it caused: finished. More: ReadPodOutput { pod: \"a\" }."}',7536638031);
INSERT INTO "history" VALUES(22,1795290334899,'output',2,NULL,'{"kind":"output","output":"text","text":"[report of pod `a` (23b163e5ee0a7044), not the user''s words] Turn 1 of work 2fc4c800ccbac403 finished. More: ReadPodOutput { pod: \"a\" }."}',5940094031);
INSERT INTO "history" VALUES(23,1795290334899,'output',2,NULL,'{"kind":"output","output":"text","text":"[report of pod `a` (23b163e5ee0a7044), not the user''s words] Work 2fc4c800ccbac403 is over, with all that it caused: finished. More: ReadPodOutput { pod: \"a\" }."}',7381898604);
INSERT INTO "history" VALUES(24,1795290334918,'turn_ended',2,NULL,'{"kind":"turn_ended","outcome":{"how":"ended","result":"Finished"}}',7343603696);
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
    body        TEXT NOT NULL, sum INTEGER,
    UNIQUE (stream, seq)
);
INSERT INTO "inbox" VALUES(1,1795290334867,'seen',1,0,0,1,13,'5f4f260de995fc0b',1,NULL,'{"item":"report","key":{"stream":"5f4f260de995fc0b","seq":1},"event":{"reported":{"Errored":{"pod":{"name":"c","incarnation":"8a89db6b3a4c531b"},"work":"1e234ae6b53469bd","turn":1,"kind":"other","message":"the command exited with code 3"}}},"text":"[report of pod `c` (8a89db6b3a4c531b), not the user''s words] Turn 1 of work 1e234ae6b53469bd failed. It said:\n| the command exited with code 3\nMore: ReadPodOutput { pod: \"c\" }."}',5718697846);
INSERT INTO "inbox" VALUES(2,1795290334868,'seen',1,0,0,1,14,'5f4f260de995fc0b',2,NULL,'{"item":"report","key":{"stream":"5f4f260de995fc0b","seq":2},"event":{"reported":{"WorkSettled":{"pod":{"name":"c","incarnation":"8a89db6b3a4c531b"},"work":"1e234ae6b53469bd","result":"Failed"}}},"text":"[report of pod `c` (8a89db6b3a4c531b), not the user''s words] Work 1e234ae6b53469bd is over, with all that it caused: failed. More: ReadPodOutput { pod: \"c\" }."}',5092117314);
INSERT INTO "inbox" VALUES(3,1795290334896,'seen',1,0,0,2,20,'8c7c9e028b1fbf0c',1,NULL,'{"item":"report","key":{"stream":"8c7c9e028b1fbf0c","seq":1},"event":{"reported":{"TurnEnded":{"pod":{"name":"a","incarnation":"23b163e5ee0a7044"},"work":"2fc4c800ccbac403","turn":1,"result":"Finished"}}},"text":"[report of pod `a` (23b163e5ee0a7044), not the user''s words] Turn 1 of work 2fc4c800ccbac403 finished. More: ReadPodOutput { pod: \"a\" }."}',5464484133);
INSERT INTO "inbox" VALUES(4,1795290334896,'seen',1,0,0,2,21,'8c7c9e028b1fbf0c',2,NULL,'{"item":"report","key":{"stream":"8c7c9e028b1fbf0c","seq":2},"event":{"reported":{"WorkSettled":{"pod":{"name":"a","incarnation":"23b163e5ee0a7044"},"work":"2fc4c800ccbac403","result":"Finished"}}},"text":"[report of pod `a` (23b163e5ee0a7044), not the user''s words] Work 2fc4c800ccbac403 is over, with all that it caused: finished. More: ReadPodOutput { pod: \"a\" }."}',7742714954);
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
INSERT INTO "meta" VALUES('created_at',1795290334640);
INSERT INTO "meta" VALUES('next_seq',1);
INSERT INTO "meta" VALUES('next_turn',3);
INSERT INTO "meta" VALUES('over',2);
INSERT INTO "meta" VALUES('parent','');
INSERT INTO "meta" VALUES('pod','run');
INSERT INTO "meta" VALUES('stream','a0a6b670cd317831');
INSERT INTO "meta" VALUES('unmet_head',0);
CREATE TABLE outbox (
    seq      INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    body     TEXT NOT NULL,
    state    TEXT NOT NULL DEFAULT 'pending',
    reason   TEXT,
    offers   INTEGER NOT NULL DEFAULT 0,
    outcome  TEXT
, sum INTEGER);
CREATE TABLE runs (
    turn    INTEGER PRIMARY KEY,
    work    TEXT NOT NULL UNIQUE,
    at      INTEGER NOT NULL,
    origin  TEXT NOT NULL,
    input   TEXT NOT NULL
, sum INTEGER);
CREATE TABLE sums (what TEXT PRIMARY KEY, sum INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "sums" VALUES('commits',23);
INSERT INTO "sums" VALUES('history from',1);
INSERT INTO "sums" VALUES('schema',569178034376);
INSERT INTO "sums" VALUES('table adoptions',0);
INSERT INTO "sums" VALUES('table calls',0);
INSERT INTO "sums" VALUES('table children',16407749706);
INSERT INTO "sums" VALUES('table compactions',0);
INSERT INTO "sums" VALUES('table descendants',0);
INSERT INTO "sums" VALUES('table inbox',26048288764);
INSERT INTO "sums" VALUES('table inbox_works',0);
INSERT INTO "sums" VALUES('table intents',0);
INSERT INTO "sums" VALUES('table left_out',0);
INSERT INTO "sums" VALUES('table meta',60851793368);
INSERT INTO "sums" VALUES('table outbox',0);
INSERT INTO "sums" VALUES('table runs',0);
INSERT INTO "sums" VALUES('table told',0);
INSERT INTO "sums" VALUES('table turn_works',0);
INSERT INTO "sums" VALUES('table turns',14636875676);
INSERT INTO "sums" VALUES('table watermarks',14298958389);
INSERT INTO "sums" VALUES('table works',19515813992);
INSERT INTO "sums" VALUES('version',3);
CREATE TABLE told (inbox INTEGER NOT NULL, history INTEGER NOT NULL, PRIMARY KEY (inbox, history)) WITHOUT ROWID;
CREATE TABLE turn_works (turn INTEGER NOT NULL, work TEXT NOT NULL, PRIMARY KEY (work, turn)) WITHOUT ROWID;
CREATE TABLE turns (
    turn        INTEGER PRIMARY KEY,
    state       TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    ended_at    INTEGER
, history INTEGER, cause TEXT);
INSERT INTO "turns" VALUES(1,'ended',1795290334872,1795290334875,12,'reports');
INSERT INTO "turns" VALUES(2,'ended',1795290334897,1795290334918,19,'reports');
CREATE TABLE watermarks (stream TEXT PRIMARY KEY, name TEXT NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "watermarks" VALUES('5f4f260de995fc0b','c',2);
INSERT INTO "watermarks" VALUES('8c7c9e028b1fbf0c','a',2);
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
INSERT INTO "works" VALUES('1e234ae6b53469bd','delegated','settled',1795290334846,1795290334868,NULL,'c','8a89db6b3a4c531b',NULL,'exit 3',1,NULL,'"Failed"');
INSERT INTO "works" VALUES('2fc4c800ccbac403','delegated','settled',1795290334861,1795290334896,NULL,'a','23b163e5ee0a7044',NULL,'echo hello; echo oops >&2',1,NULL,'"Finished"');
INSERT INTO "works" VALUES('a7de61a34044a4ab','delegated','open',1795290334859,NULL,NULL,'b','cf867e29cce4d94a',NULL,'echo begun; sleep 60; echo done',1,NULL,NULL);
CREATE INDEX inbox_open ON inbox (state, not_before) WHERE state <> 'seen';
CREATE INDEX inbox_works_of ON inbox_works (inbox);
CREATE INDEX outbox_undeliverable ON outbox (seq) WHERE state = 'undeliverable';
CREATE UNIQUE INDEX children_live ON children (name) WHERE state <> 'ended';
CREATE INDEX works_open ON works (direction, work) WHERE state = 'open';
CREATE INDEX works_below ON works (belongs_to) WHERE state = 'open' AND belongs_to IS NOT NULL;
CREATE INDEX turns_open ON turns (state) WHERE state <> 'ended';
CREATE INDEX turn_works_of ON turn_works (turn);
CREATE INDEX children_over ON children (ended_at) WHERE state = 'ended';
CREATE INDEX children_by_stream ON children (stream);
CREATE INDEX works_over ON works (settled_at) WHERE state = 'settled';
CREATE INDEX works_of ON works (child, incarnation) WHERE direction = 'delegated';
CREATE INDEX descendants_of ON descendants (parent_name, parent_incarnation);
CREATE INDEX inbox_in_turn ON inbox (turn) WHERE turn IS NOT NULL;
CREATE TRIGGER sum_of_new_meta AFTER INSERT ON meta BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."key", NEW."value") WHERE what = 'table meta'; END;
CREATE TRIGGER sum_of_old_meta AFTER DELETE ON meta BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."key", OLD."value") WHERE what = 'table meta'; END;
CREATE TRIGGER sum_of_changed_meta AFTER UPDATE ON meta BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."key", OLD."value") + pod_sum(NEW."key", NEW."value") WHERE what = 'table meta'; END;
CREATE TRIGGER sum_of_new_inbox AFTER INSERT ON inbox BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."id", NEW."at", NEW."state", NEW."wakes", NEW."attempts", NEW."not_before", NEW."turn", NEW."history", NEW."stream", NEW."seq", NEW."note", NEW."body", NEW."sum") WHERE what = 'table inbox'; END;
CREATE TRIGGER sum_of_old_inbox AFTER DELETE ON inbox BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."id", OLD."at", OLD."state", OLD."wakes", OLD."attempts", OLD."not_before", OLD."turn", OLD."history", OLD."stream", OLD."seq", OLD."note", OLD."body", OLD."sum") WHERE what = 'table inbox'; END;
CREATE TRIGGER sum_of_changed_inbox AFTER UPDATE ON inbox BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."id", OLD."at", OLD."state", OLD."wakes", OLD."attempts", OLD."not_before", OLD."turn", OLD."history", OLD."stream", OLD."seq", OLD."note", OLD."body", OLD."sum") + pod_sum(NEW."id", NEW."at", NEW."state", NEW."wakes", NEW."attempts", NEW."not_before", NEW."turn", NEW."history", NEW."stream", NEW."seq", NEW."note", NEW."body", NEW."sum") WHERE what = 'table inbox'; END;
CREATE TRIGGER sum_of_new_inbox_works AFTER INSERT ON inbox_works BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."inbox", NEW."work") WHERE what = 'table inbox_works'; END;
CREATE TRIGGER sum_of_old_inbox_works AFTER DELETE ON inbox_works BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."inbox", OLD."work") WHERE what = 'table inbox_works'; END;
CREATE TRIGGER sum_of_changed_inbox_works AFTER UPDATE ON inbox_works BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."inbox", OLD."work") + pod_sum(NEW."inbox", NEW."work") WHERE what = 'table inbox_works'; END;
CREATE TRIGGER sum_of_new_outbox AFTER INSERT ON outbox BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."seq", NEW."at", NEW."kind", NEW."body", NEW."state", NEW."reason", NEW."offers", NEW."outcome", NEW."sum") WHERE what = 'table outbox'; END;
CREATE TRIGGER sum_of_old_outbox AFTER DELETE ON outbox BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."seq", OLD."at", OLD."kind", OLD."body", OLD."state", OLD."reason", OLD."offers", OLD."outcome", OLD."sum") WHERE what = 'table outbox'; END;
CREATE TRIGGER sum_of_changed_outbox AFTER UPDATE ON outbox BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."seq", OLD."at", OLD."kind", OLD."body", OLD."state", OLD."reason", OLD."offers", OLD."outcome", OLD."sum") + pod_sum(NEW."seq", NEW."at", NEW."kind", NEW."body", NEW."state", NEW."reason", NEW."offers", NEW."outcome", NEW."sum") WHERE what = 'table outbox'; END;
CREATE TRIGGER sum_of_new_children AFTER INSERT ON children BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."name", NEW."incarnation", NEW."at", NEW."pid", NEW."state", NEW."lifetime", NEW."worker", NEW."socket", NEW."store", NEW."runtime_dir", NEW."scope", NEW."stream", NEW."terminal", NEW."ended_at", NEW."restart", NEW."restarted", NEW."moved_to") WHERE what = 'table children'; END;
CREATE TRIGGER sum_of_old_children AFTER DELETE ON children BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."name", OLD."incarnation", OLD."at", OLD."pid", OLD."state", OLD."lifetime", OLD."worker", OLD."socket", OLD."store", OLD."runtime_dir", OLD."scope", OLD."stream", OLD."terminal", OLD."ended_at", OLD."restart", OLD."restarted", OLD."moved_to") WHERE what = 'table children'; END;
CREATE TRIGGER sum_of_changed_children AFTER UPDATE ON children BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."name", OLD."incarnation", OLD."at", OLD."pid", OLD."state", OLD."lifetime", OLD."worker", OLD."socket", OLD."store", OLD."runtime_dir", OLD."scope", OLD."stream", OLD."terminal", OLD."ended_at", OLD."restart", OLD."restarted", OLD."moved_to") + pod_sum(NEW."name", NEW."incarnation", NEW."at", NEW."pid", NEW."state", NEW."lifetime", NEW."worker", NEW."socket", NEW."store", NEW."runtime_dir", NEW."scope", NEW."stream", NEW."terminal", NEW."ended_at", NEW."restart", NEW."restarted", NEW."moved_to") WHERE what = 'table children'; END;
CREATE TRIGGER sum_of_new_descendants AFTER INSERT ON descendants BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."name", NEW."incarnation", NEW."parent_name", NEW."parent_incarnation", NEW."socket", NEW."scope", NEW."at") WHERE what = 'table descendants'; END;
CREATE TRIGGER sum_of_old_descendants AFTER DELETE ON descendants BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."name", OLD."incarnation", OLD."parent_name", OLD."parent_incarnation", OLD."socket", OLD."scope", OLD."at") WHERE what = 'table descendants'; END;
CREATE TRIGGER sum_of_changed_descendants AFTER UPDATE ON descendants BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."name", OLD."incarnation", OLD."parent_name", OLD."parent_incarnation", OLD."socket", OLD."scope", OLD."at") + pod_sum(NEW."name", NEW."incarnation", NEW."parent_name", NEW."parent_incarnation", NEW."socket", NEW."scope", NEW."at") WHERE what = 'table descendants'; END;
CREATE TRIGGER sum_of_new_watermarks AFTER INSERT ON watermarks BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."stream", NEW."name", NEW."seq") WHERE what = 'table watermarks'; END;
CREATE TRIGGER sum_of_old_watermarks AFTER DELETE ON watermarks BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."stream", OLD."name", OLD."seq") WHERE what = 'table watermarks'; END;
CREATE TRIGGER sum_of_changed_watermarks AFTER UPDATE ON watermarks BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."stream", OLD."name", OLD."seq") + pod_sum(NEW."stream", NEW."name", NEW."seq") WHERE what = 'table watermarks'; END;
CREATE TRIGGER sum_of_new_works AFTER INSERT ON works BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."work", NEW."direction", NEW."state", NEW."at", NEW."settled_at", NEW."origin", NEW."child", NEW."incarnation", NEW."belongs_to", NEW."input", NEW."turn", NEW."last_result", NEW."result") WHERE what = 'table works'; END;
CREATE TRIGGER sum_of_old_works AFTER DELETE ON works BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."work", OLD."direction", OLD."state", OLD."at", OLD."settled_at", OLD."origin", OLD."child", OLD."incarnation", OLD."belongs_to", OLD."input", OLD."turn", OLD."last_result", OLD."result") WHERE what = 'table works'; END;
CREATE TRIGGER sum_of_changed_works AFTER UPDATE ON works BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."work", OLD."direction", OLD."state", OLD."at", OLD."settled_at", OLD."origin", OLD."child", OLD."incarnation", OLD."belongs_to", OLD."input", OLD."turn", OLD."last_result", OLD."result") + pod_sum(NEW."work", NEW."direction", NEW."state", NEW."at", NEW."settled_at", NEW."origin", NEW."child", NEW."incarnation", NEW."belongs_to", NEW."input", NEW."turn", NEW."last_result", NEW."result") WHERE what = 'table works'; END;
CREATE TRIGGER sum_of_new_runs AFTER INSERT ON runs BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."turn", NEW."work", NEW."at", NEW."origin", NEW."input", NEW."sum") WHERE what = 'table runs'; END;
CREATE TRIGGER sum_of_old_runs AFTER DELETE ON runs BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."turn", OLD."work", OLD."at", OLD."origin", OLD."input", OLD."sum") WHERE what = 'table runs'; END;
CREATE TRIGGER sum_of_changed_runs AFTER UPDATE ON runs BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."turn", OLD."work", OLD."at", OLD."origin", OLD."input", OLD."sum") + pod_sum(NEW."turn", NEW."work", NEW."at", NEW."origin", NEW."input", NEW."sum") WHERE what = 'table runs'; END;
CREATE TRIGGER sum_of_new_turns AFTER INSERT ON turns BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."turn", NEW."state", NEW."started_at", NEW."ended_at", NEW."history", NEW."cause") WHERE what = 'table turns'; END;
CREATE TRIGGER sum_of_old_turns AFTER DELETE ON turns BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."turn", OLD."state", OLD."started_at", OLD."ended_at", OLD."history", OLD."cause") WHERE what = 'table turns'; END;
CREATE TRIGGER sum_of_changed_turns AFTER UPDATE ON turns BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."turn", OLD."state", OLD."started_at", OLD."ended_at", OLD."history", OLD."cause") + pod_sum(NEW."turn", NEW."state", NEW."started_at", NEW."ended_at", NEW."history", NEW."cause") WHERE what = 'table turns'; END;
CREATE TRIGGER sum_of_new_turn_works AFTER INSERT ON turn_works BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."turn", NEW."work") WHERE what = 'table turn_works'; END;
CREATE TRIGGER sum_of_old_turn_works AFTER DELETE ON turn_works BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."turn", OLD."work") WHERE what = 'table turn_works'; END;
CREATE TRIGGER sum_of_changed_turn_works AFTER UPDATE ON turn_works BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."turn", OLD."work") + pod_sum(NEW."turn", NEW."work") WHERE what = 'table turn_works'; END;
CREATE TRIGGER sum_of_new_intents AFTER INSERT ON intents BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."id", NEW."at", NEW."name", NEW."body") WHERE what = 'table intents'; END;
CREATE TRIGGER sum_of_old_intents AFTER DELETE ON intents BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."id", OLD."at", OLD."name", OLD."body") WHERE what = 'table intents'; END;
CREATE TRIGGER sum_of_changed_intents AFTER UPDATE ON intents BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."id", OLD."at", OLD."name", OLD."body") + pod_sum(NEW."id", NEW."at", NEW."name", NEW."body") WHERE what = 'table intents'; END;
CREATE TRIGGER sum_of_new_left_out AFTER INSERT ON left_out BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."first", NEW."last") WHERE what = 'table left_out'; END;
CREATE TRIGGER sum_of_old_left_out AFTER DELETE ON left_out BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."first", OLD."last") WHERE what = 'table left_out'; END;
CREATE TRIGGER sum_of_changed_left_out AFTER UPDATE ON left_out BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."first", OLD."last") + pod_sum(NEW."first", NEW."last") WHERE what = 'table left_out'; END;
CREATE TRIGGER sum_of_new_compactions AFTER INSERT ON compactions BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."seq", NEW."upto") WHERE what = 'table compactions'; END;
CREATE TRIGGER sum_of_old_compactions AFTER DELETE ON compactions BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."seq", OLD."upto") WHERE what = 'table compactions'; END;
CREATE TRIGGER sum_of_changed_compactions AFTER UPDATE ON compactions BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."seq", OLD."upto") + pod_sum(NEW."seq", NEW."upto") WHERE what = 'table compactions'; END;
CREATE TRIGGER sum_of_new_calls AFTER INSERT ON calls BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."turn", NEW."call") WHERE what = 'table calls'; END;
CREATE TRIGGER sum_of_old_calls AFTER DELETE ON calls BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."turn", OLD."call") WHERE what = 'table calls'; END;
CREATE TRIGGER sum_of_changed_calls AFTER UPDATE ON calls BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."turn", OLD."call") + pod_sum(NEW."turn", NEW."call") WHERE what = 'table calls'; END;
CREATE TRIGGER sum_of_new_told AFTER INSERT ON told BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."inbox", NEW."history") WHERE what = 'table told'; END;
CREATE TRIGGER sum_of_old_told AFTER DELETE ON told BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."inbox", OLD."history") WHERE what = 'table told'; END;
CREATE TRIGGER sum_of_changed_told AFTER UPDATE ON told BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."inbox", OLD."history") + pod_sum(NEW."inbox", NEW."history") WHERE what = 'table told'; END;
CREATE TRIGGER sum_of_new_adoptions AFTER INSERT ON adoptions BEGIN
                 UPDATE sums SET sum = sum + pod_sum(NEW."name", NEW."body") WHERE what = 'table adoptions'; END;
CREATE TRIGGER sum_of_old_adoptions AFTER DELETE ON adoptions BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."name", OLD."body") WHERE what = 'table adoptions'; END;
CREATE TRIGGER sum_of_changed_adoptions AFTER UPDATE ON adoptions BEGIN
                 UPDATE sums SET sum = sum - pod_sum(OLD."name", OLD."body") + pod_sum(NEW."name", NEW."body") WHERE what = 'table adoptions'; END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('history',24);
INSERT INTO "sqlite_sequence" VALUES('inbox',4);
COMMIT;
