//! What is peculiar to one world: how large its tables are and how often which fault happens.
//!
//! Values only, drawn once from the seed. Windows are tiny on purpose: a table that never fills shows nothing.
//!
//! Read by every actor through `env`.

use std::time::Duration;

use rpc::Limits;
use rpc::MethodInfo;
use rpc::wire::hello::ServiceInfo;

use super::random::Random;

/// The method that is answered once.
pub(super) const PLAIN: u16 = 1;
/// The method whose ack opens a stream.
pub(super) const STREAM: u16 = 2;
/// The method that both sides know with different types.
pub(super) const MISMATCHED: u16 = 3;
/// A method that the server does not have.
pub(super) const MISSING: u16 = 4;

/// The version of every method.
pub(super) const VERSION: u16 = 1;

const fn method(id: u16, fingerprint: u64) -> MethodInfo {
    MethodInfo { id, version: VERSION, name: "method", fingerprint, ack_bytes_max: 4096, stream: id == STREAM }
}

/// The service as its clients know it.
pub(super) const WANTED: ServiceInfo = ServiceInfo {
    name: "sim",
    version: 1,
    methods: &[method(PLAIN, 11), method(STREAM, 12), method(MISMATCHED, 13), method(MISSING, 14)],
};

/// The service as its server knows it.
pub(super) const SERVED: ServiceInfo =
    ServiceInfo { name: "sim", version: 1, methods: &[method(PLAIN, 11), method(STREAM, 12), method(MISMATCHED, 99)] };

/// How often things happen, per mille of the steps at which they might.
#[derive(Clone, Copy, Debug)]
pub(super) struct Knobs {
    pub(super) clients: usize,
    pub(super) steps: u64,
    pub(super) cut: u64,
    pub(super) stall: u64,
    pub(super) duplicate: u64,
    /// Of ten thousand: each of these ends a process or a phase.
    pub(super) server_crash: u64,
    pub(super) client_crash: u64,
    pub(super) client_close: u64,
    pub(super) drain: u64,
    /// Of a thousand turns with nothing open.
    pub(super) done: u64,
    pub(super) mute: u64,
    pub(super) submit: u64,
    /// The same for those who call from the server's side.
    pub(super) submit_reverse: u64,
    /// How many clients of a thousand answer calls.
    pub(super) offers: u64,
    pub(super) abandon: u64,
    pub(super) hasty: u64,
    /// Bytes that a kernel buffer holds.
    pub(super) pipe_bytes: usize,
    /// Bytes that one read or write moves at most.
    pub(super) chunk_bytes: u64,
    /// The longest pause between two steps, in microseconds.
    pub(super) pause: u64,
}

impl Knobs {
    pub(super) fn draw(random: &mut Random) -> Self {
        // Some worlds know a fault not at all, so that the others are seen alone.
        let mut often = |usual: u64| usual * random.choose(&[(2, 0), (2, 1), (3, 2), (2, 5)]) / 2;
        let (cut, stall, duplicate) = (often(8), often(6), often(12));
        let (server_crash, client_crash, client_close) = (often(14), often(6), often(6));
        let (drain, mute, abandon, hasty) = (often(6), often(10), often(60), often(150));
        let often_done = often(150);
        Self {
            clients: random.choose(&[(2, 1), (3, 2)]),
            steps: random.between(3_000, 16_000),
            cut,
            stall,
            duplicate,
            server_crash,
            client_crash,
            client_close,
            drain,
            done: often_done,
            mute,
            submit: random.choose(&[(1, 120), (2, 300), (2, 600)]),
            submit_reverse: random.choose(&[(1, 0), (2, 150), (2, 500)]),
            offers: random.choose(&[(1, 0), (3, 850), (1, 1000)]),
            abandon,
            hasty,
            pipe_bytes: random.choose(&[(2, 200), (2, 700), (3, 4096)]),
            chunk_bytes: random.choose(&[(1, 40), (2, 150), (3, 600), (3, 4096)]),
            pause: random.choose(&[(4, 40), (4, 120), (1, 500)]),
        }
    }

    /// What the server and its clients are configured with.
    pub(super) fn limits(&self, random: &mut Random) -> Limits {
        Limits {
            frame_bytes_max: 700,
            handshake_bytes_max: 400,
            window: random.choose(&[(2, 4), (2, 6), (1, 8)]),
            parked_max: 2,
            queued_bytes_max: random.choose(&[(1, 500), (3, 4000)]),
            answer_bytes_max: random.choose(&[(1, 150), (4, 4000)]),
            out_bytes_max: random.choose(&[(1, 200), (3, 2000)]),
            streams_max: 2,
            stream_items: 3,
            stream_bytes: 150,
            lanes_max: random.choose(&[(1, 2), (4, 6)]),
            lane_retention: Duration::from_millis(random.choose(&[(1, 25), (2, 60)])),
            deadline_max: Duration::from_millis(120),
            handshake_timeout: Duration::from_millis(12),
            stall_timeout: Duration::from_millis(20),
            ..Limits::default()
        }
    }
}
