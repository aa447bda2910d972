//! Every bound of the framework, why it is that number, and what the worst case costs in memory.
//!
//! Values only. Nothing in this crate grows without one of these.
//!
//! Read by `session` (windows, budgets), `io` (buffers, caps) and by whoever wants to raise them through
//! [`Limits`].

use std::time::Duration;

use crate::request::Request;

/// What a lane, a connection and a server hold at most. The defaults suit local IPC with small messages.
///
/// Memory that one lane can make a server hold, at most ([`Limits::lane_bytes_max`]): kept answers and what running
/// handlers of the default largest ack (4 KiB) may add, twice, because an answer is kept and queued; the bodies of running
/// requests and one more; the frame that it is sending; queued answers; streams; 512 bytes for each open id; and, if the
/// client serves in reverse, what the server's own calls have queued for it. Beside that stands what the client sends to
/// handlers that call it back: for each stream that they have opened there its credit and a frame, and for each of their
/// calls an answer, of a frame at most, which lies there until its caller is polled or lets its doubt go. A method
/// that declares a larger ack adds that for each of its running handlers, and a decoded request may be larger than its
/// body: a [`List`](crate::List) of small elements by their size in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest frame, in bytes, that this side accepts and sends. LIMIT: 1 MiB holds every method that is
    /// not really a stream; what is larger travels as items.
    pub frame_bytes_max: usize,
    /// The largest frame, in bytes, before the handshake is done. LIMIT: 4 KiB holds a Hello with 250 methods.
    pub handshake_bytes_max: usize,
    /// How many ids may lie between the floor and the newest request. LIMIT: 1 024 saturates a Unix socket with
    /// 64 B calls (measured: throughput is flat from 64 on) and keeps the answers of a lane below a few MiB. Handlers of a
    /// lane that run at once: this and [`parked_max`](Self::parked_max), because a client parks its oldest calls and goes
    /// on. The first 64 ids of a lane are taken even if this is less: a client sends them before it knows.
    pub window: u32,
    /// How many old ids may be held above the window (see `PROTOCOL.md`, section 4.4). LIMIT: their list must fit
    /// one control frame of 1 KiB. A server takes 64 even if this is less; a client holds 64 even if this is more.
    pub parked_max: usize,
    /// Request bytes that a client queues and has not handed to the kernel, per lane. LIMIT: one window of 8 KiB calls.
    pub queued_bytes_max: usize,
    /// Answers that a server keeps for repeats and resolves, per lane, in bytes; beyond it requests are refused as
    /// overloaded. A client never stops reading: one that is called back gives up a connection whose server leaves unread
    /// twice this, or twice [`out_bytes_max`](Self::out_bytes_max) if that is more, beside what its own calls need. LIMIT: one window of answers of the default largest size, 4 KiB, and room for some larger ones.
    pub answer_bytes_max: usize,
    /// Bodies of requests whose handlers have not ended, per lane, in bytes; from there on requests are refused as
    /// overloaded. LIMIT: one window of 16 KiB requests, or sixteen of the largest.
    pub request_bytes_max: usize,
    /// Answer bytes not yet taken by the kernel, per connection, above which no further request is taken up; with
    /// nothing queued one is taken up whatever this is. LIMIT: a Unix
    /// socket's usual buffer, 208 KiB, and some more: a peer that reads finds the next bytes there; one that does not is
    /// stopped early.
    pub out_bytes_max: usize,
    /// Open streams per lane. LIMIT: observers of one process; each costs its credit.
    pub streams_max: usize,
    /// Credit of a stream, and what a server queues of it for a reader that is slow, in items. LIMIT: keeps a local reader busy without a round trip per item.
    pub stream_items: u32,
    /// Credit of a stream, and what a server queues of it for a reader that is slow, in bytes. LIMIT:
    /// twice a socket's usual buffer, 208 KiB, and some more: one half is on its way while the reader gives back the other,
    /// so that a large value does not stop for credit.
    pub stream_bytes: u32,
    /// Connections of one server, all users together. LIMIT: below the usual descriptor limit's hard bound.
    pub connections_max: usize,
    /// Connections of one server whose handshake is not done. LIMIT: a backlog of 4 096 that one process has filled at once
    /// is within its share.
    pub handshakes_max: usize,
    /// Lanes that a server remembers, connected or not. LIMIT: every connection of a full server, and as many again that
    /// were lost and may come back.
    pub lanes_max: usize,
    /// Handlers of one server that have not ended. One process may have four fifths of them, and less when others have
    /// some; beyond it requests are refused as overloaded. LIMIT: a handler costs its state, 1 KiB to be generous.
    pub running_max: usize,
    /// Bytes that all lanes of a server hold together for their calls: bodies of running requests, kept answers, what is
    /// partly read and what is not yet written. Divided like `running_max`. LIMIT: what a machine can spare for one service.
    pub held_bytes_max: usize,
    /// How long a lane without a connection is remembered; at least as long as a handshake may take
    /// ([`handshake_timeout`](Self::handshake_timeout)), even if this is less. LIMIT: six default deadlines.
    pub lane_retention: Duration,
    /// The deadline of a call for which none was given. LIMIT: longer than a local handler or the restart of its service
    /// takes, and as long as anybody watches a program that says nothing.
    pub deadline_default: Duration,
    /// The longest deadline that a server honours; a longer one is cut to it. LIMIT: an hour; so long a caller that has
    /// forgotten its call may hold a handler, and [`Server::drain`](crate::Server::drain) may wait for one.
    pub deadline_max: Duration,
    /// How long a handshake may take, from accept to Hello. LIMIT: far beyond what it takes a peer on a
    /// busy machine, with TLS too; half a default deadline, so that a call that was stuck in one has time for another.
    pub handshake_timeout: Duration,
    /// How long a peer may leave its answers unread before the connection is closed. LIMIT: three default
    /// deadlines: who has read nothing for so long has nobody left who waits for most of them.
    pub stall_timeout: Duration,
    /// After how long a silence, while calls or streams are open, a peer is asked whether it is there; at the latest after
    /// twice that. LIMIT: longer than the default deadline, so that ordinary calls end before it; a process that was
    /// stopped for less than this and [`keepalive_timeout`](Self::keepalive_timeout) is never missed. `Duration::MAX`
    /// switches it off.
    pub keepalive: Duration,
    /// How long a peer that was asked may stay silent before the connection is given up: calls that it may have are in
    /// doubt, and asked for on the next one. A slow handler is no silence: its driver answers. LIMIT: as long as the silence
    /// before; a driver answers at once, so it is the machine that this waits for.
    pub keepalive_timeout: Duration,
    /// For how long, since the last bytes came, a driver asks a Unix socket again and again instead of sleeping: a client
    /// while calls are open, a server for each connection. At most a millisecond; zero, the default, means never. LIMIT: what
    /// takes longer loses nothing by a sleep.
    ///
    /// For calls whose handlers take a few microseconds, one at a time, with a processor to spare on each side: it saves
    /// both sides' waking. It costs processor time: all of both threads while such calls go on, and so long once for a
    /// conversation that ends. The other tasks of the runtime have their turn between the questions, its timers and other
    /// sockets after every 33rd. A peer that does not answer in time is waited for asleep, the next one, two, four ... times
    /// (up to 1 024), until it has been in time again. Where there is one processor nothing spins.
    pub spin: Duration,
}

impl Limits {
    /// The most memory, in bytes, that one lane can make a server hold.
    pub fn lane_bytes_max(&self) -> usize {
        let frame = self.frame_bytes_max.saturating_add(64);
        let per_stream = frame.saturating_add(usize::try_from(self.stream_bytes).unwrap_or(usize::MAX));
        let window = usize::try_from(self.window.max(FIRST_IDS_MAX)).unwrap_or(usize::MAX);
        let window = window.saturating_add(self.parked_max.max(PARKED_IDS));
        let entries = window.saturating_mul(ENTRY_BYTES);
        let answers = self.answer_bytes_max.saturating_add(window.saturating_mul(4 << 10)).saturating_mul(2);
        let requests = self.request_bytes_max.saturating_add(frame);
        let streams = self.streams_max.saturating_mul(per_stream);
        // The lane in the other direction: our own requests, and what is remembered of them.
        let calling = self.queued_bytes_max.saturating_add(frame).saturating_add(entries);
        [answers, requests, frame, self.out_bytes_max, streams, entries, calling]
            .into_iter()
            .fold(0_usize, usize::saturating_add)
    }

    /// The most memory, in bytes, that all peers together can make a server hold: what its lanes may hold for their calls,
    /// and the fixed cost of as many connections, lanes and running handlers as there may be. Beside it stands what the
    /// handlers of the user hold, which begins with their decoded requests ([`decoded_bytes_max`](Self::decoded_bytes_max)),
    /// and the answers to calls that they make in the other direction, each of a frame at most: they are not counted.
    pub fn server_bytes_max(&self) -> usize {
        // Between two looks at what is held each connection may take one read or one frame, copied once, and answer it.
        let overshoot = READ_BYTES.max(self.frame_bytes_max).saturating_mul(2);
        let connections = self.connections_max.saturating_mul(CONNECTION_BYTES);
        // What a Hello offers to answer is kept with its lane, a third larger than it was written.
        let offer = self.handshake_bytes_max.saturating_mul(4) / 3;
        let lane = LANE_BYTES.saturating_add(CALLING_BYTES).saturating_add(offer);
        let lanes = self.lanes_max.saturating_mul(lane);
        let running = self.running_max.saturating_mul(HANDLER_BYTES);
        [self.held_bytes_max, overshoot.saturating_mul(THREADS_MAX), connections, lanes, running]
            .into_iter()
            .fold(0_usize, usize::saturating_add)
    }

    /// The most memory, in bytes, that decoded requests of the method `R` can hold beside
    /// [`server_bytes_max`](Self::server_bytes_max), for as long as their handlers keep them: what a byte of it can become,
    /// for all bytes that requests may have. A `List` of large elements with small encodings is what makes this large.
    pub fn decoded_bytes_max<R: Request>(&self) -> usize {
        let bodies = self.held_bytes_max.min(self.running_max.saturating_mul(self.frame_bytes_max));
        let inline = self.running_max.saturating_mul(size_of::<R>());
        bodies.saturating_mul(R::HEAP_PER_BYTE).saturating_add(inline)
    }

    /// What a client queues beside its requests for a server that does not read, before it gives the connection up: it
    /// must not stop reading itself. What it has to say for its own calls is not the server's doing, and always fits.
    pub(crate) fn unread_bytes_max(&self) -> usize {
        let window = usize::try_from(self.window).unwrap_or(usize::MAX);
        let own = window.saturating_mul(CONTROL_BYTES_PER_ID).saturating_add(self.handshake_bytes_max);
        self.answer_bytes_max.max(self.out_bytes_max).saturating_mul(2).saturating_add(own).max(CONTROL_BYTES)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 1 << 20,
            handshake_bytes_max: 4 << 10,
            window: 1024,
            parked_max: PARKED_IDS,
            queued_bytes_max: 8 << 20,
            answer_bytes_max: 8 << 20,
            request_bytes_max: 16 << 20,
            out_bytes_max: 256 << 10,
            streams_max: 64,
            stream_items: 256,
            stream_bytes: 512 << 10,
            connections_max: 16_384,
            handshakes_max: 8_192,
            lanes_max: 32_768,
            running_max: 65_536,
            held_bytes_max: 1 << 30,
            lane_retention: Duration::from_secs(60),
            deadline_default: Duration::from_secs(10),
            deadline_max: Duration::from_secs(3600),
            handshake_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(15),
            keepalive_timeout: Duration::from_secs(15),
            spin: Duration::ZERO,
        }
    }
}

/// Ids that a client may send before it has been told a window. LIMIT: throughput is flat from here on, and a server of a
/// smaller window can hold them.
pub(crate) const FIRST_IDS_MAX: u32 = 64;

/// Parked ids that every server takes. LIMIT: their list must fit one control frame of 1 KiB.
pub(crate) const PARKED_IDS: usize = 64;

/// Bytes of control frames that a client may have to write for each of its ids. LIMIT: a Resolve and a Cancel, 20 each,
/// and half as much again.
const CONTROL_BYTES_PER_ID: usize = 64;

/// Bytes of control frames that a client may have to write whatever its window. LIMIT: its first ids, and a Park of 1 KiB.
const CONTROL_BYTES: usize = 8 << 10;

/// Bytes of bookkeeping per id in a window. LIMIT: counted generously (asserted in `session`).
pub(crate) const ENTRY_BYTES: usize = 512;

/// Bytes of a connection that is idle: its task, its timer, and what is too little to be counted. LIMIT: measured at 2.4
/// KiB, and two pages; beside them the free slots that it keeps.
const CONNECTION_BYTES: usize = (11 << 10) + SLOTS_KEPT * SLOT_BYTES;

/// Bytes of a lane without calls. LIMIT: measured at 1 KiB, and a page.
const LANE_BYTES: usize = 5 << 10;

/// Bytes of the lane in the other direction without calls, where a client serves: its cell, and the task that watches it.
/// LIMIT: their sizes are 2.3 KiB together, and half as much again.
pub(crate) const CALLING_BYTES: usize = 4 << 10;

/// Bytes of a running handler without what it holds itself. LIMIT: its place in a window, and an answer of the default
/// largest size, kept and queued; its slot, and as many free ones as are kept for it.
const HANDLER_BYTES: usize = (9 << 10) + (1 + SLOTS_KEPT_PER_HANDLER) * SLOT_BYTES;

/// Bytes of the slot of a handler whose state is small. LIMIT: measured at less than 0.5 KiB; what a service's largest
/// handler has beyond that, its free slots have, too, and belongs to what its handlers hold.
const SLOT_BYTES: usize = 512;

/// Free slots that a connection keeps while handlers run. LIMIT: of so many calls at once beside one that waits for long none
/// goes to the pool of the server, which all threads share.
pub(crate) const SLOTS_KEPT: usize = 16;

/// The same, where more handlers run, for each of them. LIMIT: who begins and ends as many handlers again and again goes
/// through all slots once for three quarters of them.
pub(crate) const SLOTS_KEPT_PER_HANDLER: usize = 3;

/// Threads that may be between two looks at once. LIMIT: an assumption about the runtime, for more bring nothing to small
/// calls; where there are more, each adds two frames to the bound.
const THREADS_MAX: usize = 16;

/// The most lanes of one client. LIMIT: each is a connection, with a window and a driver of its own; more than the CPUs of
/// both sides bring nothing.
pub(crate) const LANES_MAX: u32 = 64;

/// The grain of timers. LIMIT: a deadline is met to within this; finer costs wakes and helps nobody.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Places that a list of a lane may keep for nothing. LIMIT: a few calls at once allocate nothing, and the largest, that of
/// the open ids, stays below one KiB and a half.
pub(crate) const LIST_KEPT: usize = 8;

/// Wakers that a list may keep room for. LIMIT: throughput is flat from so many calls at once on; one KiB.
pub(crate) const WAKERS_KEPT: usize = 64;

/// How long a lane that keeps more for nothing waits before it looks whether it was needed since. LIMIT: traffic that comes
/// back sooner finds its memory; a burst holds it for two such times.
pub(crate) const RELAX_AFTER: Duration = Duration::from_secs(1);

/// The longest spin. LIMIT: what takes longer than this loses nothing by a sleep, which costs a fiftieth of it.
pub(crate) const SPIN_MAX: Duration = Duration::from_millis(1);

/// Waits that are slept through after spins in vain, at most. LIMIT: a peer that is never in time costs a thousandth of
/// a spin for each wait; one that is in time again is noticed after so many.
pub(crate) const SPIN_SKIPPED_WAITS_MAX: u32 = 1024;

/// Questions of a spin, one after the other, between which only tasks that are woken have a turn. LIMIT: the turn of timers
/// and sockets is a system call as long as a question; so it is one in 33, and waits for about ten microseconds.
pub(crate) const SPIN_STRAIGHT_MAX: u32 = 32;

/// Bytes of a read, shared by all connections of a thread. LIMIT: what one read of a Unix socket can return at best.
pub(crate) const READ_BYTES: usize = 64 << 10;

/// From this size on a body is written from where it was encoded instead of being copied behind the others. LIMIT: below,
/// one more piece of a vectored write and an allocation of its own cost more than the copy.
pub(crate) const LARGE_BODY_BYTES: usize = 4 << 10;

/// From this size on a frame is read into a buffer of its own, which its body is not copied out of. LIMIT: of smaller ones
/// several come with one read of [`READ_BYTES`].
pub(crate) const LARGE_FRAME_BYTES: usize = 16 << 10;

/// The largest buffer that a thread keeps for the next large frame or body. LIMIT: above, what the allocator does about it
/// is small beside the copying of the kernel.
pub(crate) const KEPT_BUFFER_BYTES_MAX: usize = (1 << 20) + (64 << 10);

/// Empty write buffers that a thread keeps. LIMIT: two for each of the few connections that are served between two polls.
pub(crate) const POOLED_BUFFERS_MAX: usize = 8;

/// Buffers of written large bodies that a thread keeps, and the largest of them. LIMIT: a stream's credit by default, in
/// chunks of a large value.
pub(crate) const SPARE_BUFFERS_MAX: usize = 8;
pub(crate) const SPARE_BYTES_MAX: usize = 128 << 10;

/// Bytes of stream items that go out in one write; answers wait for no more than these. LIMIT: as much as one
/// read of the other side takes; more would only keep answers waiting.
pub(crate) const BULK_BYTES: usize = 64 << 10;

/// Bytes of a chunk of a large value, its frame included. LIMIT: what one write carries of streams, so that calls go
/// between them, and what one read takes, so that a chunk is a read of its own and is not copied out of it.
pub(crate) const CHUNK_FRAME_BYTES: usize = if BULK_BYTES < READ_BYTES { BULK_BYTES } else { READ_BYTES };

/// What a client reads before its callers run. LIMIT: a quarter of the credit of a stream by default: its reader gives
/// credit back while the rest is still on its way.
pub(crate) const READ_TURN_BYTES: usize = 128 << 10;

/// Bytes that a peer must take of what we write, within each [`Limits::stall_timeout`], unless it has taken all. LIMIT: one
/// page; a reader slower than that in 30 s reads to hold memory, not to read.
pub(crate) const STALL_PROGRESS_BYTES: usize = 4 << 10;

/// The longest text of a refusal, in bytes. LIMIT: a sentence or two; a client keeps it with the outcome of each call that it
/// ends.
pub(crate) const REASON_BYTES_MAX: usize = 256;

/// The longest tracestate that is taken along, in bytes. LIMIT: what W3C asks everybody to carry.
pub(crate) const TRACESTATE_BYTES_MAX: usize = 512;

/// The most members of a tracestate. LIMIT: W3C Trace Context 3.3.1.
pub(crate) const TRACESTATE_MEMBERS_MAX: usize = 32;

/// The shortest secret, in bytes. LIMIT: 128 random bits cannot be guessed.
pub(crate) const SECRET_BYTES_MIN: usize = 16;

/// The longest secret, in bytes. LIMIT: leaves a Hello of 4 KiB its method list.
pub(crate) const SECRET_BYTES_MAX: usize = 256;

/// How many bytes of a body the inspector shows. LIMIT: what fits a line.
pub(crate) const INSPECT_BYTES_SHOWN_MAX: usize = 32;

/// The largest frame that the inspector puts together, in bytes. LIMIT: above what anybody sets a frame to; it holds one
/// of each direction, of bytes that are there.
pub(crate) const INSPECT_FRAME_BYTES_MAX: usize = 64 << 20;

/// Requests of a connection whose methods the inspector remembers, to name them with their answers. LIMIT: four windows.
pub(crate) const INSPECT_IDS_MAX: usize = 4096;

/// The most bytes of one record of a recording. LIMIT: above what one read brings; who reads a damaged recording
/// allocates no more than this by its word.
pub(crate) const INSPECT_RECORD_BYTES_MAX: usize = 1 << 20;

/// The size at which a recording ends, in bytes. LIMIT: a forgotten proxy must not fill a disk.
pub(crate) const INSPECT_RECORDING_BYTES_MAX: u64 = 256 << 20;

/// Connections that a recording proxy passes on at a time. LIMIT: two descriptors each.
pub(crate) const INSPECT_CONNECTIONS_MAX: usize = 1024;

/// The wire versions that this crate speaks.
pub(crate) const WIRE_VERSION: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_lane_stays_below_a_sixth_of_a_gibibyte() {
        assert!(Limits::default().lane_bytes_max() < (1 << 30) / 6, "{}", Limits::default().lane_bytes_max());
    }
}
