use super::*;
use crate::store::fixture::{self, pod};

#[test]
fn history_is_read_from_a_cursor_in_order() {
    let store = fixture::memory("a");
    store.with(|tx| {
        for n in 1..=5 {
            let item = HistoryItem::Output { output: OutputKind::Text, text: n.to_string() };
            assert_eq!(tx.append(Some(TurnId(1)), None, &item)?, n);
        }
        let page = tx.history_after(2, 2)?;
        assert_eq!(page.iter().map(|row| row.seq).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(tx.history_head()?, 5);
        Ok(())
    });
}

#[test]
fn page_of_history_is_bounded_in_bytes_and_never_empty_before_the_end() {
    let store = fixture::memory("a");
    let item = HistoryItem::Output { output: OutputKind::Text, text: "x".repeat(800 * 1024) };
    store.with(|tx| {
        for _ in 0..12 {
            tx.append(None, None, &item)?;
        }
        let (mut cursor, mut pages) = (0, Vec::new());
        while let Some(last) = tx.history_after(cursor, 100)?.last() {
            pages.push(last.seq - cursor);
            cursor = last.seq;
        }
        assert_eq!(pages, [5, 5, 2]);
        Ok(())
    });
}

#[test]
fn every_item_reads_as_it_was_written() {
    let store = fixture::memory("a");
    let event = LocalEvent::Reported(fixture::turn_ended(&pod("b", 2), WorkId(3)));
    let key = Some(EventKey { stream: StreamId(9), seq: Seq(1) });
    let items = [
        HistoryItem::LifeStarted { pod: pod("a", 1) },
        HistoryItem::UserInput { origin: Origin::Person { uid: 0, pid: Some(7) }, text: "x\n\u{20ac}".to_owned() },
        HistoryItem::TurnStarted { cause: TurnCause::Run, works: vec![WorkId(1)] },
        HistoryItem::TurnEnded { outcome: TurnOutcome::Errored { kind: FailureKind::Auth, message: "no".to_owned() } },
        HistoryItem::ToolCall { call: CallId(1), tool: "t".to_owned(), arguments: serde_json::json!({"a": [1]}) },
        HistoryItem::ToolResult {
            call: CallId(1),
            how: ToolEnd::Abandoned,
            text: String::new(),
            structured: Some(serde_json::json!([1])),
            attachments: vec![Attachment::new("n", "text/plain", "/n")],
        },
        HistoryItem::Answering { request: 1 },
        HistoryItem::Provider { of: 3, data: serde_json::json!({"signature": "x"}) },
        HistoryItem::Usage(Usage { input_tokens: 3, output_tokens: 2, cached_tokens: 1, cache_written_tokens: 0 }),
        HistoryItem::Retrying { attempt: 1, after_ms: 2, reason: "r".to_owned() },
        HistoryItem::Continuing { reason: "r".to_owned() },
        HistoryItem::Compacted { upto: 3, summary: "s".to_owned(), children: vec![pod("b", 2)], children_total: 1 },
        HistoryItem::Rewound { to: 3, target: TurnId(2), by: Some(Origin::Host), returned: 1 },
        HistoryItem::Worker { what: "mood".to_owned(), detail: serde_json::json!({"level": 3}) },
        HistoryItem::SystemItem(SystemItem::Report { key, event: event.clone(), text: "t".to_owned() }),
        HistoryItem::SystemItem(SystemItem::Note { key: NoteKey(1), origin: Origin::Host, text: "n".to_owned() }),
        HistoryItem::ControlEvent { key: None, event },
        HistoryItem::ChildSpawned { child: pod("b", 2), lifetime: Lifetime::Tied },
        HistoryItem::ChildTerminal { child: pod("b", 2), terminal: Terminal::ShutDown, unread: None },
        HistoryItem::WorkSettled { result: WorkResult::Lost, child: Some(pod("b", 2).name) },
        HistoryItem::Unblocked,
        HistoryItem::OlderThanParent { ours: Seq(3), parent: Seq(9) },
        HistoryItem::NewerThanParent { ours: Seq(9), parent: Seq(3) },
    ];
    store.with(|tx| {
        for item in &items {
            tx.append(None, Some(WorkId(5)), item)?;
        }
        let rows = tx.history_after(0, 100)?;
        assert_eq!(rows.iter().map(|row| &row.item).collect::<Vec<_>>(), items.iter().collect::<Vec<_>>());
        for row in rows {
            let line = row.to_json_line()?;
            assert!(line.contains(&format!("\"kind\":\"{}\"", row.item.kind())), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
        Ok(())
    });
}

#[test]
fn entry_that_no_observer_could_be_sent_is_refused() {
    let store = fixture::memory("a");
    let item = HistoryItem::Output { output: OutputKind::Text, text: "x".repeat(ENTRY_BYTES_MAX) };
    let error = store.try_with(|tx| tx.append(None, None, &item)).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
}
