"""A client in another language, written from rpc/PROTOCOL.md alone. Standard library only, Python 3.9 or later.

Section numbers are those of that page. One lane, one connection at a time; calls end as an ack (the value returned),
`Rejected`, `NotDelivered` or `Unknown`. A doubt can be resolved. It may answer a service itself, for calls of the other
side (`rpc_serving`).
"""

import asyncio
import os
import struct

import rpc_wire as wire
from rpc_bodies import *  # noqa: F401,F403: the types that methods are declared with
from rpc_bodies import decode
from rpc_serving import Rejected, Serving
from rpc_wire import FRAME_BYTES_MAX, PARKED_MAX, REVERSE, WINDOW, Violation, frame, word


class NotDelivered(Exception):
    """No handler saw it and none will."""


class Unknown(Exception):
    """It may have been applied. Ask with `resolve`, or let go with `give_up`."""

    def __init__(self, client, call, cause):
        super().__init__(cause)
        self._client, self._call = client, call

    async def resolve(self, timeout=10):
        return await self._client._resolve(self._call, timeout)

    def give_up(self):
        self._client._release(self._call)


class _Call:
    """An id that is open, or in doubt and held."""

    def __init__(self, ident, method, opens):
        self.ident, self.method, self.epoch = ident, method, 0
        self.answer = asyncio.get_running_loop().create_future()
        self.stream = Stream() if opens else None


class Stream:
    """What a handler sends, in its order (4.8). Iterate it for the items; with `events`, for lossy ones and gaps too. A
    stream that was cut short ends with `ConnectionError`."""

    def __init__(self):
        self.queue, self.client, self.call, self.taken, self.taken_bytes = asyncio.Queue(), None, None, 0, 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        while True:
            what, value = await self._event()
            if what == "item":
                return value
            if what == "resync":
                raise ConnectionError(f"{value[1]} items and {value[2]} lossy ones are missing")

    async def events(self):
        """Pairs: ("item", value), ("lossy", value), ("resync", (number of the next item, items missing, lossy missing))."""
        try:
            while True:
                what, value = await self._event()
                # Resyncs that follow each other are one.
                while what == "resync" and not self.queue.empty() and self.queue._queue[0][0] == "resync":
                    _, (cursor, items, lossy) = self.queue.get_nowait()
                    value = (cursor, value[1] + items, value[2] + lossy)
                yield what, value
        except StopAsyncIteration:
            return

    async def _event(self):
        what, value = await self.queue.get()
        if what == "end":
            raise StopAsyncIteration
        if what == "lost":
            raise ConnectionError(value)
        if what == "resync":
            return what, value
        # What the reader has taken is granted again, some of it at a time. Resync and End cost nothing.
        self.taken, self.taken_bytes = self.taken + 1, self.taken_bytes + len(value)
        if self.taken >= self.client.stream_items // 2 or self.taken_bytes >= self.client.stream_bytes // 2:
            body = struct.pack("<I", self.taken_bytes)
            self.client._send(frame(wire.CREDIT, self.taken, self.call.ident, body=body))
            self.taken = self.taken_bytes = 0
        method = self.call.method
        return what, decode(method.item if what == "item" else method.lossy, value)

    def close(self):
        self.client._cancel(self.call)


class Client:
    stream_items, stream_bytes = 8, 1 << 16
    # Seconds of silence after which a peer for whom we wait is asked, and more of them after which it is given up (4.7).
    keepalive, keepalive_timeout = 15.0, 15.0

    def __init__(self, path, service, version, methods, serves=None, window=WINDOW):
        """`serves`: the name, version and [(method, async function)] of a service that we answer (4.9)."""
        self.path, self.service, self.version, self.methods, self.serves = path, service, version, methods, serves
        self.peer, self.incarnation = os.urandom(16), struct.unpack("<Q", os.urandom(8))[0]
        self.window_ours = self.window = window
        self.epoch, self.next_id, self.frame_bytes_max = 0, 1, FRAME_BYTES_MAX
        self.held, self.parked, self.streams, self.serving = {}, set(), {}, None
        self.writer, self.welcome, self.draining, self.closed = None, asyncio.Event(), False, False
        # What the server has said last: of Drain and Goodbye (kind, code, id), and how far our requests have come.
        self.last_words, self.received, self.started = [], 0, 0
        self.heard = self.pings = self.pongs = 0
        self.dialling, self.changed = asyncio.Lock(), asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.tasks = []

    # Calling.

    async def call(self, method, value, deadline=10.0):
        """The ack, or one of the three exceptions; by the deadline, in seconds."""
        ack, _ = await self._begin(method, value, deadline, False)
        return ack

    async def open(self, method, value, deadline=10.0):
        """The ack and the stream that it opens."""
        return await self._begin(method, value, deadline, True)

    async def _begin(self, method, value, deadline, opens):
        body = method.request.put(value)
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline
        while not self._may_send():
            try:
                await asyncio.wait_for(self._ready(), max(0, until - loop.time()))
            except asyncio.TimeoutError:
                raise NotDelivered("the deadline passed before the request was written") from None
            except OSError as error:
                raise NotDelivered(str(error)) from None
        # The id is given when the frame is appended (4.2), and nothing is awaited until it is handed over.
        call = _Call(self.next_id, method, opens)
        tlvs = wire.tlv(1, struct.pack("<II", self.stream_items, self.stream_bytes)) if opens else b""
        self.held[call.ident] = call
        fixed = struct.pack("<QHHI", self._floor(), method.number, method.version, 0)
        left = max(1, int((until - loop.time()) * 1000))
        whole = frame(wire.REQUEST, left, call.ident, fixed, tlvs, body)
        if len(whole) - 4 > self.frame_bytes_max:
            del self.held[call.ident]
            raise NotDelivered("too large")
        self.next_id += 1
        call.epoch = self.epoch
        if opens:
            call.stream.client, call.stream.call = self, call
            self.streams[call.ident] = call.stream
        self._send(whole)
        try:
            return await self._outcome(call, until - loop.time())
        except asyncio.CancelledError:
            # A dropped call stops its handler (4.7).
            self._cancel(call)
            raise

    async def _outcome(self, call, timeout):
        try:
            kind, code, body = await asyncio.wait_for(asyncio.shield(call.answer), timeout)
        except asyncio.TimeoutError:
            raise Unknown(self, call, "the deadline passed without an answer") from None
        if kind == "doubt":
            call.answer = asyncio.get_running_loop().create_future()
            raise Unknown(self, call, body)
        self._release(call)
        if kind == "ack":
            if len(body) >= 4096:
                # Its server need not keep it: the floor says so, also if no request follows (4.4).
                self._park()
            return decode(call.method.ack, body), call.stream
        self.streams.pop(call.ident, None)
        if kind == "nack" and code == wire.REJECTED:
            raise Rejected(decode(call.method.rejection, body))
        if kind == "nack":
            text = body.decode(errors="replace") if code != wire.OVERLOADED else ""
            raise NotDelivered(f"{word(wire.NACKS, code)} {text}".strip())
        if kind == "none":
            raise NotDelivered(body)
        # That is all there is to know, now and later.
        raise Unknown(self, call, word(wire.FAILURES, code))

    async def _resolve(self, call, timeout):
        if call.ident not in self.held:
            raise Unknown(self, call, "nothing is left to ask")
        # On a connection later than its own it is asked for by the handshake; here too, which is harmless.
        await asyncio.wait_for(self._connected(), timeout)
        if not call.answer.done():
            self._send(frame(wire.RESOLVE, 0, call.ident))
        ack, _ = await self._outcome(call, timeout)
        return ack

    def _cancel(self, call):
        self._send(frame(wire.CANCEL, 0, call.ident))
        self.streams.pop(call.ident, None)
        self._release(call)

    def _release(self, call):
        self.held.pop(call.ident, None)
        if call.ident in self.parked:
            self.parked.remove(call.ident)
            self._park()
        self.changed.set()
        self._hang_up_if_drained()

    def _floor(self):
        return min((ident for ident in self.held if ident not in self.parked), default=self.next_id)

    def _park(self):
        """All ids that are held below the floor. Sent before anything that carries this floor (4.4)."""
        if self.writer is not None and self.welcome.is_set():
            listed = struct.pack(f"<{len(self.parked)}Q", *sorted(self.parked))
            self._send(frame(wire.PARK, 0, self._floor(), body=listed))

    def _settle(self, ident, kind, code=0, body=b""):
        call = self.held.get(ident)
        # Late answers and answers to ids that were given up are normal (4.2).
        if call and not call.answer.done():
            call.answer.set_result((kind, code, body))

    # The connection.

    def _may_send(self):
        """Connected, welcomed, and room in the window: made by parking what is old and open, if it must be."""
        if self.draining and self.writer is not None:
            raise NotDelivered("draining")
        if self.writer is None or not self.welcome.is_set():
            return False
        parks = False
        while self.next_id >= self._floor() + self.window and len(self.parked) < PARKED_MAX:
            self.parked.add(self._floor())
            parks = True
        if parks:
            self._park()
        return self.next_id < self._floor() + self.window

    async def _connected(self):
        async with self.dialling:
            if self.writer is None:
                await self._dial()
        await self.welcome.wait()
        if self.writer is None:
            raise NotDelivered(self.refused)

    async def _ready(self):
        self.changed.clear()
        await self._connected()
        if not self._may_send():
            await self.changed.wait()

    async def _dial(self):
        reader, self.writer = await asyncio.open_unix_connection(self.path)
        self.epoch += 1
        self.welcome, self.draining, self.refused = asyncio.Event(), False, "the connection was lost"
        self.received = self.started = self.pings = self.pongs = 0
        self._send(wire.hello(self, self.epoch, self.window_ours))
        self.tasks = [asyncio.ensure_future(self._read(reader, self.epoch)), asyncio.ensure_future(self._listen())]

    def _send(self, whole):
        if self.writer is not None:
            self.writer.write(whole)

    def cut(self):
        """Loses the connection."""
        if self.writer is not None:
            self.writer.transport.abort()

    async def close(self):
        """Lets what we answer end, says that nothing more will be said, and hangs up."""
        if self.serving and self.writer is not None:
            self.serving.drain()
            await self.serving.ended()
        self.closed = True
        if self.writer is not None:
            if not self.held:
                self._send(frame(wire.GOODBYE, wire.DONE))
            writer, self.writer = self.writer, None
            writer.close()
        for task in self.tasks:
            task.cancel()

    async def _read(self, reader, epoch):
        data = b""
        try:
            while True:
                await self.reading.wait()
                more = await reader.read(1 << 16)
                if not more:
                    break
                self.heard += 1
                data = self._take_frames(data + more, epoch)
        except Violation:
            self._send(frame(wire.GOODBYE, wire.VIOLATION))
            if self.writer is not None:
                self.writer.close()
        except ConnectionError:
            pass
        finally:
            if not self.closed:
                self._lost()

    def _take_frames(self, data, epoch):
        """What is left of `data`: the front of a frame."""
        at = 0
        while len(data) - at >= 4:
            size = struct.unpack_from(">I", data, at)[0]
            if size > FRAME_BYTES_MAX:
                raise Violation("a frame that is too large")
            if len(data) - at - 4 < size:
                break
            self._take(data[at + 4:at + 4 + size], epoch)
            at += 4 + size
        return data[at:]

    async def _listen(self):
        """Asks a silent peer, and gives up one that stays silent: any byte is a sign of life, and a loss is no proof."""
        asked = False
        while True:
            heard = self.heard
            await asyncio.sleep(self.keepalive_timeout if asked else self.keepalive)
            if self.heard != heard:
                asked = False
            elif asked:
                return self.cut()
            elif self._is_open() or self.streams or self.serving:
                asked = True
                # Before the Welcome there is nobody to ask, but it is waited for no longer.
                if self.welcome.is_set():
                    self._send(frame(wire.PING, 0, 0, struct.pack("<Q", self._floor())))

    def _is_open(self):
        return any(not call.answer.done() for call in self.held.values())

    def _lost(self):
        """The old connection is discarded before the next one is dialled (4.3)."""
        if self.writer is not None:
            if not self.writer.transport.is_closing():
                self.writer.transport.abort()
            self.writer = None
        for task in self.tasks[1:]:
            task.cancel()
        self.draining = False
        self.welcome.set()
        self.changed.set()
        for stream in self.streams.values():
            stream.queue.put_nowait(("lost", "the connection was lost"))
        self.streams.clear()
        if self.serving:
            self.serving.send = None
        if self._is_open() or self.serving:
            asyncio.ensure_future(self._again())

    async def _again(self):
        """Loss is no end (4.5): what is open is asked for on the next connection, if there is one. Who serves stays reachable."""
        for pause in (0, 0.01, 0.05, 0.2, 0.5):
            await asyncio.sleep(pause)
            try:
                return self.closed or await self._connected()
            except (OSError, NotDelivered):
                continue
        for call in self.held.values():
            self._settle(call.ident, "doubt", body="the peer cannot be reached")

    def _hang_up_if_drained(self):
        """A server that takes no more is left when nothing is open; the next call dials whoever is there then."""
        if self.draining and not self._is_open() and not self.streams and self.writer is not None:
            self.writer.close()

    def _take(self, data, epoch):
        f = wire.parse(data)
        if f is None:
            return
        if f.flags & REVERSE:
            if self.serving is None or not self.welcome.is_set():
                raise Violation("a call to someone who serves nothing")
            return self.serving.take(f)
        if not self.welcome.is_set() and f.kind not in (wire.WELCOME, wire.GOODBYE):
            raise Violation("before Welcome")
        if f.kind == wire.WELCOME:
            self._welcomed(f, epoch)
        elif f.kind == wire.ACK:
            self._settle(f.ident, "ack", 0, f.body)
        elif f.kind == wire.NACK:
            self._settle(f.ident, "nack", f.aux, f.body)
        elif f.kind == wire.FAILED:
            self._settle(f.ident, "failed", f.aux)
        elif f.kind == wire.RESOLUTION:
            self._resolved(f)
        elif f.kind == wire.RECEIVED:
            self.received = max(self.received, f.ident)
            if f.body:
                self.started = max(self.started, wire.numbers("<Q", f.body)[0])
        elif f.kind == wire.ITEM:
            if f.ident in self.streams:
                what = "lossy" if f.flags & wire.LOSSY else "item"
                self.streams[f.ident].queue.put_nowait((what, f.body))
        elif f.kind == wire.RESYNC:
            if f.ident in self.streams:
                self.streams[f.ident].queue.put_nowait(("resync", wire.numbers("<QQQ", f.body)))
        elif f.kind == wire.END:
            stream = self.streams.pop(f.ident, None)
            if stream:
                stream.queue.put_nowait(("end", None) if f.aux == 1 else ("lost", word(wire.ENDS, f.aux)))
                self._hang_up_if_drained()
        elif f.kind == wire.PING:
            self.pings += 1
            self._send(frame(wire.PONG, 0, f.ident))
        elif f.kind == wire.PONG:
            self.pongs += 1
        elif f.kind in (wire.DRAIN, wire.GOODBYE):
            self._leave(f, epoch)
        elif not f.flags & wire.IGNORABLE:
            raise Violation("a frame that only a client sends")

    def _welcomed(self, f, epoch):
        if self.welcome.is_set():
            raise Violation("a second Welcome")
        peer, (incarnation, born, theirs_bytes, theirs_window) = f.body[4:20], wire.numbers("<QQII", f.body[20:])
        if not 1 <= born <= epoch:
            raise Violation("a memory that was born on no connection of ours")
        self.frame_bytes_max = min(FRAME_BYTES_MAX, theirs_bytes)
        self.window = min(self.window_ours, theirs_window)
        self.welcome.set()
        older = [call for call in self.held.values() if call.epoch != epoch]
        for call in older:
            if call.epoch < born:
                self._settle(call.ident, "doubt", body="the peer no longer remembers the request")
                self.held.pop(call.ident)
                self.parked.discard(call.ident)
        if epoch > 1:
            # It may have been lost with the last connection, and the next floor would close what it lists.
            self._park()
        for call in older:
            if call.epoch >= born and not call.answer.done():
                self._send(frame(wire.RESOLVE, 0, call.ident))
        if self.serves:
            memory = (peer, incarnation, born)
            if self.serving is None or self.serving.memory != memory:
                self.serving = Serving(self.serves[2], memory, WINDOW)
            self.serving.window, self.serving.frame_bytes_max = self.window, self.frame_bytes_max
            self.serving.send = self._send
        self.changed.set()

    def _resolved(self, f):
        if f.aux == wire.APPLIED:
            self._settle(f.ident, "ack", 0, f.body)
        elif f.aux == wire.NACKED:
            self._settle(f.ident, "nack", wire.numbers("<I", f.body)[0], f.body[4:])
        elif f.aux == wire.FAILURE:
            self._settle(f.ident, "failed", wire.numbers("<I", f.body)[0])
        elif f.aux == wire.NEVER_SEEN:
            self._settle(f.ident, "none", body="the server never saw the request")
        elif f.aux != wire.RUNNING:
            self._settle(f.ident, "doubt", body="the peer no longer remembers the request")

    def _leave(self, f, epoch):
        """The peer's word about what was first written on this very connection (4.3)."""
        self.last_words.append((f.kind, f.aux, f.ident))
        why = word(wire.GOODBYES, f.aux) if f.kind == wire.GOODBYE else "draining"
        self.refused = f"refused: {why}"
        for call in list(self.held.values()):
            if call.ident > f.ident and call.epoch == epoch:
                self._settle(call.ident, "none", body=self.refused)
        if f.kind == wire.GOODBYE:
            raise ConnectionError(why)
        self.draining = True
        self.changed.set()
        self._hang_up_if_drained()
