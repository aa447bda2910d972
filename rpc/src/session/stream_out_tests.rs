use super::*;
use crate::wire::frame::{Cut, cut};
use crate::wire::header::{self, LOSSY, put_common};

const ITEM_BYTES: usize = 10;

/// A stream and what its reader makes of it.
struct Play {
    stream: StreamOut,
    heard: Vec<String>,
}

impl Play {
    fn new(policy: Slow, credit: (u32, u32), queue_max: (u32, u32)) -> Self {
        let mut stream = StreamOut::new(7, 0, credit, queue_max);
        stream.set_policy(policy);
        Self { stream, heard: Vec::new() }
    }

    fn push(&mut self, name: u8, lossy: bool) -> Pushed {
        let mut frame = BytesMut::new();
        crate::wire::frame::append(&mut frame, usize::MAX, |out| {
            put_common(out, Kind::Item, if lossy { LOSSY } else { 0 }, 0, 7);
            out.extend_from_slice(&[name; ITEM_BYTES]);
            Ok::<(), crate::wire::frame::Oversized>(())
        })
        .unwrap();
        self.stream.push(frame.freeze(), ITEM_BYTES, lossy)
    }

    fn end(&mut self) {
        let mut frame = BytesMut::new();
        crate::session::client::put_frame(&mut frame, Kind::End, 1, 7, &[]);
        self.stream.end(frame.freeze());
    }

    /// Everything that the reader has credit for, in words.
    fn hear(&mut self) -> String {
        while self.stream.has_frames() {
            let frame = self.stream.next_frame().expect("has_frames said so");
            let Cut::Frame { frame, .. } = cut(&frame, usize::MAX) else { panic!("a whole frame") };
            let frame = header::parse(frame).unwrap().unwrap();
            self.heard.push(match frame.kind {
                Kind::Item if frame.flags & LOSSY != 0 => format!("({})", frame.body[0]),
                Kind::Item => frame.body[0].to_string(),
                Kind::Resync => {
                    let (cursor, gap) = Gap::parse(frame.body).unwrap();
                    format!("[missed {}+{}, next {cursor}]", gap.lossless, gap.lossy)
                }
                Kind::End => "end".into(),
                other => panic!("{other:?} on a stream"),
            });
        }
        assert_eq!(self.stream.next_frame(), None, "has_frames said that nothing is there");
        std::mem::take(&mut self.heard).join(" ")
    }

    fn has_room(&mut self) -> bool {
        self.stream.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

#[test]
fn block_queues_no_more_than_the_reader_has_credit_for() {
    let mut play = Play::new(Slow::Block, (2, 1000), (8, 1000));
    assert!(play.has_room());
    play.push(0, false);
    assert!(play.has_room());
    play.push(1, false);
    assert!(!play.has_room());
    assert_eq!(play.hear(), "0 1");
    assert!(!play.has_room(), "what was sent has used the credit up");
    play.stream.grant(1, 100);
    assert!(play.has_room());
}

#[test]
fn block_with_boundless_credit_is_still_bounded_by_our_own_share() {
    let mut play = Play::new(Slow::Block, (u32::MAX, u32::MAX), (3, 1000));
    for name in 0..3 {
        assert!(play.has_room());
        play.push(name, false);
    }
    assert!(!play.has_room());
    assert!(play.stream.ready_waker().is_none(), "nobody is woken for room that is not there");
    play.stream.next_frame();
    assert!(play.stream.ready_waker().is_some(), "the producer that waited is woken when there is room");
}

#[test]
fn block_counts_bytes_as_well_as_items() {
    let mut play = Play::new(Slow::Block, (100, 15), (100, 1000));
    play.push(0, false);
    assert!(play.has_room(), "the last item may be larger than what is left");
    play.push(1, false);
    assert!(!play.has_room());
    assert_eq!(play.hear(), "0 1");
}

#[test]
fn lossy_item_without_room_is_dropped_and_said() {
    let mut play = Play::new(Slow::Block, (1, 1000), (8, 1000));
    assert_eq!(play.push(0, false), Pushed::Queued);
    assert_eq!(play.push(1, true), Pushed::Dropped);
    assert_eq!(play.push(2, true), Pushed::Dropped);
    assert_eq!(play.hear(), "0");
    play.stream.grant(3, 1000);
    assert_eq!(play.hear(), "[missed 0+2, next 3]", "a gap at the end is told before there is a next item");
    play.push(3, false);
    assert_eq!(play.hear(), "3");
}

#[test]
fn drop_oldest_keeps_the_newest_and_says_what_is_missing() {
    let mut play = Play::new(Slow::DropOldest, (0, 0), (3, 1000));
    for name in 0..10 {
        assert!(play.has_room(), "the producer never waits");
        assert_eq!(play.push(name, false), Pushed::Queued);
    }
    assert_eq!(play.hear(), "");
    play.stream.grant(2, 1000);
    assert_eq!(play.hear(), "[missed 7+0, next 7] 7 8");
    play.stream.grant(9, 1000);
    assert_eq!(play.hear(), "9");
    assert_eq!(play.stream.missed(), Gap { lossless: 7, lossy: 0 });
    assert_eq!(play.stream.cursor(), 10);
}

#[test]
fn drop_oldest_drops_lossy_items_first_and_marks_each_gap() {
    let mut play = Play::new(Slow::DropOldest, (0, 0), (4, 1000));
    for (name, lossy) in [(0, false), (1, true), (2, false), (3, true), (4, false), (5, false), (6, true)] {
        play.push(name, lossy);
    }
    play.stream.grant(100, 1000);
    // 6 found no lossy item to take the place of, and no room.
    assert_eq!(play.hear(), "0 [missed 0+1, next 2] 2 [missed 0+1, next 4] 4 5 [missed 0+1, next 7]");
}

#[test]
fn drop_oldest_is_bounded_by_bytes_too() {
    let mut play = Play::new(Slow::DropOldest, (0, 0), (100, 25));
    for name in 0..9 {
        play.push(name, false);
    }
    assert!(play.stream.queued_bytes <= 25 + ITEM_BYTES);
    play.stream.grant(100, 1000);
    assert_eq!(play.hear(), "[missed 6+0, next 6] 6 7 8");
}

#[test]
fn close_ends_behind_what_was_queued() {
    let mut play = Play::new(Slow::Close, (1, 1000), (2, 1000));
    assert_eq!(play.push(0, false), Pushed::Queued);
    assert_eq!(play.push(1, false), Pushed::Queued);
    assert_eq!(play.push(2, false), Pushed::Closed);
    play.end();
    assert_eq!(play.push(3, false), Pushed::Closed, "nothing goes behind the end");
    assert_eq!(play.hear(), "0");
    assert!(!play.stream.is_done());
    play.stream.grant(1, 1000);
    assert_eq!(play.hear(), "1 [missed 1+0, next 3] end");
    assert!(play.stream.is_done());
}

#[test]
fn end_needs_no_credit_but_never_overtakes_an_item() {
    let mut play = Play::new(Slow::DropOldest, (0, 0), (2, 1000));
    play.push(0, false);
    play.end();
    assert_eq!(play.hear(), "");
    play.stream.grant(1, 1);
    assert_eq!(play.hear(), "0 end");
}

/// Whatever is pushed and granted in whatever order: every item is either heard or counted as missing, in its place.
#[test]
fn every_item_is_heard_or_said_to_be_missing() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    for _ in 0..2000 {
        let policy = [Slow::Block, Slow::DropOldest, Slow::Close][random(3) as usize];
        let mut play = Play::new(policy, (random(4) as u32, 1000), (1 + random(4) as u32, 1000));
        let (mut pushed, mut open, mut words) = (0_u64, true, String::new());
        for _ in 0..random(40) {
            match random(4) {
                0 | 1 if open => {
                    let lossy = random(2) == 0;
                    if lossy || play.has_room() {
                        open = play.push(pushed as u8, lossy) != Pushed::Closed;
                        pushed += 1;
                        if !open {
                            play.end();
                        }
                    }
                }
                2 => drop(play.stream.grant(1 + random(3) as u32, 1000)),
                _ => words += &(play.hear() + " "),
            }
        }
        if open {
            play.end();
        }
        play.stream.grant(100, 100_000);
        words += &play.hear();
        let mut next = 0;
        for word in words.replace(", next ", ",next").replace("[missed ", "[missed").split_whitespace() {
            if let Some(gap) = word.strip_prefix("[missed") {
                let (counts, cursor) = gap.trim_end_matches(']').split_once(",next").unwrap();
                next += counts.split('+').map(|n| n.parse::<u64>().unwrap()).sum::<u64>();
                assert_eq!(next, cursor.parse::<u64>().unwrap(), "{policy:?}: {words}");
            } else if word != "end" {
                assert_eq!(word.trim_matches(['(', ')']).parse::<u64>().unwrap(), next, "{policy:?}: {words}");
                next += 1;
            }
        }
        assert_eq!(next, pushed, "{policy:?}: {words}");
        assert!(words.trim_end().ends_with("end"), "{words}");
    }
}
