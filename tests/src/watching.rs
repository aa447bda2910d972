//! A pod that commits without rest, and observers that count what they are sent.
//!
//! Judges each stream of entries by itself: what follows what, and nothing of how fast it came.
//!
//! Used by the binary `observers` and by `it`.

use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use pod::protocol::{Glimpse, Observed};
use pod::{TurnContext, TurnEnd, Worker, WorkerError};
use rpc::{Event, ItemStream};
use tokio::time::{Instant, sleep_until};

/// A worker that commits notes until it is asked to end. Its input is `LANES RATE`: how many commits are under way at once,
/// and how many are begun in a second; 0 for as many as there can be.
#[derive(Debug)]
pub struct Busy;

impl Worker for Busy {
    fn turn<'a>(&'a mut self, cx: &'a TurnContext) -> BoxFuture<'a, Result<TurnEnd, WorkerError>> {
        Box::pin(async move {
            let (lanes, rate) = parse(cx.input().unwrap_or_default())?;
            let began = Instant::now();
            let cx = &*cx;
            let commits = (0..lanes).map(|lane| async move {
                let mut number = lane;
                loop {
                    if let Some(due_us) = (number * 1_000_000).checked_div(rate) {
                        sleep_until(began + Duration::from_micros(due_us)).await;
                    }
                    cx.note("counted", serde_json::json!({ "number": number, "text": "what an agent might say" }))
                        .await?;
                    number += lanes;
                }
            });
            // CANCEL SAFETY: what is under way is committed or not; nobody counts on it.
            tokio::select! {
                ended = try_join_all(commits) => ended.map(|_: Vec<()>| TurnEnd::Finished),
                _ = cx.signalled() => Ok(TurnEnd::Cancelled),
            }
        })
    }
}

fn parse(input: &str) -> Result<(u64, u64), WorkerError> {
    let numbers: Option<Vec<u64>> = input.split_whitespace().map(|word| word.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[lanes, rate]) if lanes > 0 => Ok((lanes, rate)),
        _ => Err(WorkerError::new(format!("`{input}` is no `LANES RATE`"))),
    }
}

/// How far an observer has come, and that nothing was missing or twice on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    cursor: u64,
    entries: u64,
}

impl Count {
    /// Begins behind the entry `cursor`.
    pub fn from(cursor: u64) -> Self {
        Self { cursor, entries: 0 }
    }

    /// The last entry.
    pub fn cursor(self) -> u64 {
        self.cursor
    }

    /// How many there were.
    pub fn entries(self) -> u64 {
        self.entries
    }

    /// Takes the next lines.
    ///
    /// # Errors
    /// What is missing, twice, or no line of the history.
    pub fn take(&mut self, first: u64, last: u64, lines: &str) -> Result<(), String> {
        if first != self.cursor + 1 {
            return Err(format!("entry {first} came behind entry {}", self.cursor));
        }
        for line in lines.split_inclusive('\n') {
            let number = line.strip_prefix("{\"seq\":").and_then(|rest| rest.split_once(',')).map(|(number, _)| number);
            let number = number.filter(|_| line.ends_with("}\n")).and_then(|number| number.parse::<u64>().ok());
            let number = number.ok_or_else(|| format!("no entry: {line:?}"))?;
            if number != self.cursor + 1 {
                return Err(format!("entry {number} came behind entry {}", self.cursor));
            }
            self.cursor = number;
            self.entries += 1;
        }
        if last != self.cursor {
            return Err(format!("the lines end with entry {}, and {last} was announced", self.cursor));
        }
        Ok(())
    }

    /// Takes one event of a subscription. True: the snapshot is complete.
    ///
    /// # Errors
    /// As [`take`](Self::take); or the stream broke.
    pub fn event(&mut self, event: Option<Result<Event<Observed, Glimpse>, rpc::StreamError>>) -> Result<bool, String> {
        match event {
            Some(Ok(Event::Item(Observed::Entries { first, last, lines }))) => {
                self.take(first, last, &lines)?;
                Ok(false)
            }
            Some(Ok(Event::Item(Observed::CaughtUp { .. }))) => Ok(true),
            Some(Ok(_)) => Ok(false),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("the stream ended".to_owned()),
        }
    }
}

/// Reads until the entry `upto` was there.
///
/// # Errors
/// As [`Count::event`].
pub async fn read_to(items: &mut ItemStream<Observed, Glimpse>, count: &mut Count, upto: u64) -> Result<(), String> {
    while count.cursor() < upto {
        count.event(items.event().await)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_overlaps_and_torn_lines_are_found() {
        let line = |number: u64| format!("{{\"seq\":{number},\"at\":1}}\n");
        let lines = |numbers: &[u64]| numbers.iter().map(|number| line(*number)).collect::<String>();
        let take = |first, last, text: String| {
            let mut count = Count::from(4);
            count.take(first, last, &text).map(|()| (count.cursor(), count.entries()))
        };
        assert_eq!(take(5, 7, lines(&[5, 6, 7])), Ok((7, 3)));
        for (first, last, text) in [
            (6, 7, lines(&[6, 7])),
            (4, 5, lines(&[4, 5])),
            (5, 7, lines(&[5, 7])),
            (5, 6, lines(&[5, 5, 6])),
            (5, 7, lines(&[5, 6])),
            (5, 5, "{\"seq\":5,\"at\"".to_owned()),
            (5, 5, "{\"kind\":5}\n".to_owned()),
        ] {
            assert!(take(first, last, text.clone()).is_err(), "{text}");
        }
    }
}
