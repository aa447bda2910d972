"""A client in another language, written from rpc/PROTOCOL.md alone. Standard library only, Python 3.9 or later.

Section numbers are those of that page. One lane, one connection at a time; calls end as an ack (the value returned),
`Rejected`, `NotDelivered` or `Unknown`. A doubt can be resolved. It parks nothing (4.4): a call that is open for long
holds the window.
"""

import asyncio
import os
import struct

# --- 5 Bodies: a type is an object with `put(value) -> bytes`, `take(bytes, at) -> (value, at)` and `fp` (3.4) ---


class BadBody(Exception):
    pass


def cut(data, at, size):
    if at + size > len(data):
        raise BadBody("too short")
    return data[at:at + size], at + size


def put_number(number):
    if number < 0 or number >= 1 << 64:
        raise ValueError(number)
    if number < 251:
        return bytes([number])
    for mark, form in ((251, "<H"), (252, "<I"), (253, "<Q")):
        if number < 1 << 8 * struct.calcsize(form):
            return bytes([mark]) + struct.pack(form, number)


def take_number(data, at):
    (first,), at = cut(data, at, 1)
    if first < 251:
        return first, at
    if first > 253:
        raise BadBody(f"number {first}")
    form = {251: "<H", 252: "<I", 253: "<Q"}[first]
    raw, at = cut(data, at, struct.calcsize(form))
    return struct.unpack(form, raw)[0], at


FNV_OFFSET, FNV_PRIME, MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


def fnv(state, data):
    for byte in data:
        state = (state ^ byte) * FNV_PRIME & MASK
    return state


def shape(kind, count):
    return fnv(name_into(FNV_OFFSET, kind), struct.pack("<Q", count))


def part(state, name, fingerprint):
    return fnv(name_into(state, name), struct.pack("<Q", fingerprint))


def name_into(state, name):
    name = name.encode()
    return fnv(fnv(state, struct.pack("<Q", len(name))), name)


class Unsigned:
    def __init__(self, bits):
        self.bits, self.fp = bits, shape(f"u{bits}", 0)

    def put(self, value):
        if not 0 <= value < 1 << self.bits:
            raise ValueError(value)
        return bytes([value]) if self.bits == 8 else put_number(value)

    def take(self, data, at):
        if self.bits == 8:
            (value,), at = cut(data, at, 1)
        else:
            value, at = take_number(data, at)
        if value >> self.bits:
            raise BadBody("too large")
        return value, at


class Signed:
    def __init__(self, bits):
        self.bits, self.fp = bits, shape(f"i{bits}", 0)

    def put(self, value):
        if not -(1 << self.bits - 1) <= value < 1 << self.bits - 1:
            raise ValueError(value)
        if self.bits == 8:
            return struct.pack("<b", value)
        return put_number(2 * value if value >= 0 else -2 * value - 1)

    def take(self, data, at):
        if self.bits == 8:
            raw, at = cut(data, at, 1)
            return struct.unpack("<b", raw)[0], at
        value, at = take_number(data, at)
        if value >> self.bits:
            raise BadBody("too large")
        return (-(value + 1) // 2 if value & 1 else value // 2), at


class Float:
    fp = shape("f64", 0)

    def put(self, value):
        return struct.pack("<d", value)

    def take(self, data, at):
        raw, at = cut(data, at, 8)
        return struct.unpack("<d", raw)[0], at


class Bool:
    fp = shape("bool", 0)

    def put(self, value):
        return bytes([bool(value)])

    def take(self, data, at):
        (value,), at = cut(data, at, 1)
        if value > 1:
            raise BadBody("no bool")
        return value == 1, at


class Text:
    fp = shape("string", 0)

    def put(self, value):
        raw = value.encode()
        return put_number(len(raw)) + raw

    def take(self, data, at):
        size, at = take_number(data, at)
        raw, at = cut(data, at, size)
        return raw.decode(), at


class Bytes:
    fp = shape("blob", 0)

    def put(self, value):
        return put_number(len(value)) + bytes(value)

    def take(self, data, at):
        size, at = take_number(data, at)
        return cut(data, at, size)


class Unit:
    fp = shape("unit", 0)

    def put(self, value):
        return b""

    def take(self, data, at):
        return None, at


class Never:
    fp = shape("never", 0)

    def take(self, data, at):
        raise BadBody("there is no such value")


class Option:
    def __init__(self, of):
        self.of, self.fp = of, part(shape("option", 1), "some", of.fp)

    def put(self, value):
        return b"\0" if value is None else b"\1" + self.of.put(value)

    def take(self, data, at):
        (tag,), at = cut(data, at, 1)
        if tag > 1:
            raise BadBody("no option")
        return self.of.take(data, at) if tag else (None, at)


class ListOf:
    def __init__(self, of, most):
        self.of, self.most, self.fp = of, most, part(shape("list", most), "element", of.fp)

    def put(self, values):
        return put_number(len(values)) + b"".join(self.of.put(value) for value in values)

    def take(self, data, at):
        count, at = take_number(data, at)
        if count > self.most:
            raise BadBody("too many")
        values = []
        for _ in range(count):
            value, at = self.of.take(data, at)
            values.append(value)
        return values, at


class Struct:
    """Values are dicts. Fields without names are called "0", "1", ..."""

    def __init__(self, **fields):
        self.fields, self.fp = fields, shape("struct", len(fields))
        for name, of in fields.items():
            self.fp = part(self.fp, name, of.fp)

    def put(self, value):
        return b"".join(of.put(value[name]) for name, of in self.fields.items())

    def take(self, data, at):
        value = {}
        for name, of in self.fields.items():
            value[name], at = of.take(data, at)
        return value, at


class Enum:
    """Values are pairs of a variant's name and the dict of its fields."""

    def __init__(self, **variants):
        self.variants, self.fp = list(variants.items()), shape("enum", len(variants))
        for name, of in self.variants:
            self.fp = part(self.fp, name, len(of.fields))
            for field, kind in of.fields.items():
                self.fp = part(self.fp, field, kind.fp)

    def put(self, value):
        for position, (name, of) in enumerate(self.variants):
            if name == value[0]:
                return put_number(position) + of.put(value[1])
        raise ValueError(value)

    def take(self, data, at):
        position, at = take_number(data, at)
        if position >= len(self.variants):
            raise BadBody("no such variant")
        name, of = self.variants[position]
        value, at = of.take(data, at)
        return (name, value), at


U8, U16, U32, U64 = Unsigned(8), Unsigned(16), Unsigned(32), Unsigned(64)
I64, BOOL, TEXT, BYTES, UNIT, NEVER, F64 = Signed(64), Bool(), Text(), Bytes(), Unit(), Never(), Float()


def decode(of, data):
    value, at = of.take(data, 0)
    if at != len(data):
        raise BadBody("something is left over")
    return value


class Method:
    def __init__(self, number, request, ack, rejection=NEVER, item=None, lossy=NEVER, version=1):
        self.number, self.version = number, version
        self.request, self.ack, self.rejection, self.item = request, ack, rejection, item
        fp = part(part(part(shape("method", 3), "request", request.fp), "ack", ack.fp), "rejection", rejection.fp)
        self.fp = part(part(fp, "item", item.fp), "lossy", lossy.fp) if item else fp


# --- 2 and 3: frames and headers ---

HELLO, WELCOME, REQUEST, ACK, NACK, FAILED, CANCEL, RESOLVE, RESOLUTION, RECEIVED = range(1, 11)
ITEM, END, CREDIT, PING, PONG, DRAIN, GOODBYE, VOID, PARK, RESYNC = range(11, 21)
IGNORABLE, REVERSE = 1, 2
MAGIC = bytes.fromhex("8a727063310d0a00")
HEADER = struct.Struct("<BBHIQ")
FRAME_BYTES_MAX, WINDOW = 1 << 20, 1024

NACKS = ["?", "rejected", "unknown method", "schema mismatch", "bad body", "unauthorized", "overloaded", "window full",
         "draining", "expired", "burnt", "unavailable"]
FAILURES = ["?", "panicked", "responder dropped", "aborted", "deadline", "answer too large"]
GOODBYES = ["?", "done", "not this protocol", "wire version", "service", "stale epoch", "unauthorized", "too many",
            "draining", "handshake timeout", "frame too large", "violation", "stalled"]


def word(words, code):
    return words[code] if code < len(words) else f"code {code}"


def frame(kind, aux=0, ident=0, fixed=b"", tlvs=b"", body=b""):
    whole = HEADER.pack(kind, 0, len(tlvs), aux, ident) + fixed + tlvs + body
    return struct.pack(">I", len(whole)) + whole


def tlv(kind, value):
    return struct.pack("<HH", kind, len(value)) + value


# --- 4 Meaning ---


class Rejected(Exception):
    """The handler said no. `args[0]` is the rejection."""


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
    """Items in their order: iterate it. Ends with `StopAsyncIteration`, or `ConnectionError` if it was cut short."""

    def __init__(self):
        self.queue, self.client, self.call, self.taken, self.taken_bytes = asyncio.Queue(), None, None, 0, 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        what, value = await self.queue.get()
        if what == "end":
            raise StopAsyncIteration
        if what == "lost":
            raise ConnectionError(value)
        # What the reader has taken is granted again, some of it at a time (4.8).
        self.taken, self.taken_bytes = self.taken + 1, self.taken_bytes + len(value)
        if self.taken >= self.client.stream_items // 2 or self.taken_bytes >= self.client.stream_bytes // 2:
            self.client._send(frame(CREDIT, self.taken, self.call.ident, body=struct.pack("<I", self.taken_bytes)))
            self.taken = self.taken_bytes = 0
        return decode(self.call.method.item, value)

    def close(self):
        self.client._cancel(self.call)


class Client:
    stream_items, stream_bytes = 8, 1 << 16

    def __init__(self, path, service, version, methods):
        self.path, self.service, self.version, self.methods = path, service, version, methods
        self.peer, self.incarnation = os.urandom(16), struct.unpack("<Q", os.urandom(8))[0]
        self.epoch, self.next_id, self.window, self.frame_bytes_max = 0, 1, WINDOW, FRAME_BYTES_MAX
        self.held, self.streams = {}, {}
        self.writer = self.reading = None
        self.welcome = None
        self.draining = False
        self.dialling = asyncio.Lock()
        self.room = asyncio.Condition()

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
        try:
            await asyncio.wait_for(self._ready(), deadline)
        except asyncio.TimeoutError:
            raise NotDelivered("the deadline passed before the request was written") from None
        except (OSError, NotDelivered) as error:
            raise NotDelivered(str(error)) from None
        # The id is given when the frame is appended (4.2), and nothing is awaited until it is handed over.
        call = _Call(self.next_id, method, opens)
        tlvs = tlv(1, struct.pack("<II", self.stream_items, self.stream_bytes)) if opens else b""
        self.held[call.ident] = call
        fixed = struct.pack("<QHHI", self._floor(), method.number, method.version, 0)
        left = max(1, int((until - loop.time()) * 1000))
        whole = frame(REQUEST, left, call.ident, fixed, tlvs, body)
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
            return decode(call.method.ack, body), call.stream
        self.streams.pop(call.ident, None)
        if kind == "nack" and code == 1:
            raise Rejected(decode(call.method.rejection, body))
        if kind == "nack":
            raise NotDelivered(f"{word(NACKS, code)} {body.decode(errors='replace') if code != 6 else ''}".strip())
        if kind == "none":
            raise NotDelivered(body)
        raise Unknown(self, call, word(FAILURES, code))

    async def _resolve(self, call, timeout):
        if call.ident not in self.held:
            raise Unknown(self, call, "nothing is left to ask")
        # On a connection later than its own it is asked for by the handshake; here too, which is harmless.
        await asyncio.wait_for(self._ready(), timeout)
        if not call.answer.done():
            self._send(frame(RESOLVE, 0, call.ident))
        ack, _ = await self._outcome(call, timeout)
        return ack

    def _cancel(self, call):
        self._send(frame(CANCEL, 0, call.ident))
        self.streams.pop(call.ident, None)
        self._release(call)

    def _release(self, call):
        self.held.pop(call.ident, None)

        async def tell():
            async with self.room:
                self.room.notify_all()

        asyncio.ensure_future(tell())

    def _floor(self):
        return min(self.held, default=self.next_id)

    def _settle(self, ident, kind, code=0, body=b""):
        call = self.held.get(ident)
        # Late answers and answers to ids that were given up are normal (4.2).
        if call and not call.answer.done():
            call.answer.set_result((kind, code, body))

    # The connection.

    async def _ready(self):
        """Connected, welcomed, and room in the window."""
        while True:
            async with self.dialling:
                if self.writer is None:
                    await self._dial()
            await self.welcome.wait()
            if self.writer is None:
                raise NotDelivered(self.refused)
            if self.next_id < self._floor() + self.window:
                return
            async with self.room:
                await self.room.wait()

    async def _dial(self):
        reader, self.writer = await asyncio.open_unix_connection(self.path)
        self.epoch += 1
        self.welcome, self.draining, self.refused = asyncio.Event(), False, "the connection was lost"
        methods = b"".join(struct.pack("<HHQ", m.number, m.version, m.fp) for m in self.methods)
        name = self.service.encode()
        self._send(frame(HELLO, body=MAGIC + struct.pack("<HHHH", 1, 1, self.version, 0) + self.peer + struct.pack(
            "<QQIIIHH", self.incarnation, self.epoch, 0, FRAME_BYTES_MAX, WINDOW, len(name), len(self.methods)
        ) + name + methods))
        self.reading = asyncio.ensure_future(self._read(reader, self.epoch))

    def _send(self, whole):
        if self.writer is not None:
            self.writer.write(whole)

    def cut(self):
        """Loses the connection, as a test may want it to."""
        if self.writer is not None:
            self.writer.transport.abort()

    async def close(self):
        """Says that nothing more will be said, and hangs up."""
        if self.writer is not None:
            if not self.held:
                self._send(frame(GOODBYE, 1))
            writer, self.writer = self.writer, None
            writer.close()
        if self.reading:
            self.reading.cancel()

    async def _read(self, reader, epoch):
        try:
            while True:
                size = struct.unpack(">I", await reader.readexactly(4))[0]
                if size > FRAME_BYTES_MAX:
                    break
                if not self._take(await reader.readexactly(size), epoch):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._lost()

    def _lost(self):
        """The old connection is discarded before the next one is dialled (4.3)."""
        if self.writer is not None:
            self.writer.transport.abort()
            self.writer = None
        self.welcome.set()
        for stream in self.streams.values():
            stream.queue.put_nowait(("lost", "the connection was lost"))
        self.streams.clear()
        if any(not call.answer.done() for call in self.held.values()):
            asyncio.ensure_future(self._again())

    async def _again(self):
        """Loss is no end (4.5): what is open is asked for on the next connection, if there is one."""
        for pause in (0, 0.01, 0.05, 0.2, 0.5):
            await asyncio.sleep(pause)
            try:
                async with self.dialling:
                    if self.writer is None:
                        await self._dial()
                await self.welcome.wait()
                if self.writer is not None:
                    return
            except OSError:
                continue
        for call in self.held.values():
            self._settle(call.ident, "doubt", body="the peer cannot be reached")

    def _take(self, data, epoch):
        kind, flags, tlv_bytes, aux, ident = HEADER.unpack_from(data)
        at = HEADER.size + (8 if kind == PING else 0) + tlv_bytes
        body = data[at:]
        if kind == WELCOME:
            born = struct.unpack_from("<Q", body, 28)[0]
            theirs_bytes, theirs_window = struct.unpack_from("<II", body, 36)
            self.frame_bytes_max, self.window = min(FRAME_BYTES_MAX, theirs_bytes), min(WINDOW, theirs_window)
            for call in list(self.held.values()):
                if call.answer.done() or call.epoch == epoch:
                    continue
                if call.epoch < born:
                    self._settle(call.ident, "doubt", body="the peer no longer remembers the request")
                    self.held.pop(call.ident)
                else:
                    self._send(frame(RESOLVE, 0, call.ident))
            self.welcome.set()
        elif kind == ACK:
            self._settle(ident, "ack", 0, body)
        elif kind == NACK:
            self._settle(ident, "nack", aux, body)
        elif kind == FAILED:
            self._settle(ident, "failed", aux)
        elif kind == RESOLUTION:
            if aux == 1:
                self._settle(ident, "ack", 0, body)
            elif aux == 2:
                self._settle(ident, "nack", struct.unpack_from("<I", body)[0], body[4:])
            elif aux == 3:
                self._settle(ident, "failed", struct.unpack_from("<I", body)[0])
            elif aux == 5:
                self._settle(ident, "none", body="the server never saw the request")
            elif aux == 6:
                self._settle(ident, "doubt", body="the peer no longer remembers the request")
        elif kind == ITEM:
            if ident in self.streams:
                self.streams[ident].queue.put_nowait(("item", body))
        elif kind == END:
            stream = self.streams.pop(ident, None)
            if stream:
                stream.queue.put_nowait(("end", None) if aux == 1 else ("lost", "the server gave the stream up"))
        elif kind == PING:
            self._send(frame(PONG, 0, ident))
        elif kind in (DRAIN, GOODBYE):
            # The peer's word about what was first written on this very connection (4.3).
            why = word(GOODBYES, aux) if kind == GOODBYE else "draining"
            for call in list(self.held.values()):
                if call.ident > ident and call.epoch == epoch:
                    self._settle(call.ident, "none", body=why)
            self.refused = f"refused: {why}"
            return kind == DRAIN
        elif kind not in (RECEIVED, PONG, RESYNC) and not flags & IGNORABLE:
            return False
        return True
