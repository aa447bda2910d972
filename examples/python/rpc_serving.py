"""What a client answers when the accepting side calls: section 4.9 of rpc/PROTOCOL.md, and so 4.2 to 4.7 with the roles
exchanged. It opens no streams.
"""

import asyncio
import struct

import rpc_wire as wire
from rpc_bodies import BadBody, decode
from rpc_wire import REVERSE, Violation, frame


class Rejected(Exception):
    """The handler says no, or has said so. `args[0]` is the rejection."""


class Serving:
    """The answering half of a reverse lane. It belongs to one memory of the accepting side, and outlives connections."""

    def __init__(self, handlers, memory, window):
        self.handlers = {(method.number, method.version): (method, handler) for method, handler in handlers}
        self.memory, self.window = memory, window
        # Of each id that is held: `None` while its handler runs, its answer, or that it was never seen and is burnt.
        self.floor, self.held, self.parked = 1, {}, set()
        self.running, self.taken_last, self.started_last, self.draining = {}, 0, 0, False
        # Writes to the present connection, if there is one.
        self.send, self.frame_bytes_max = None, wire.FRAME_BYTES_MAX

    def take(self, f):
        if f.kind == wire.REQUEST:
            self._raise(f.floor)
            self._request(f)
        elif f.kind in (wire.VOID, wire.PING):
            self._raise(f.floor)
            if f.kind == wire.PING:
                self._say(wire.PONG, 0, f.ident)
        elif f.kind == wire.CANCEL:
            if f.ident in self.running:
                self.running[f.ident].cancel()
        elif f.kind == wire.RESOLVE:
            self._resolve(f.ident)
        elif f.kind == wire.PARK:
            listed = set(wire.ids(f.body))
            if len(listed) > wire.PARKED_MAX:
                raise Violation("too many parked ids")
            for ident in listed:
                if ident not in self.held and ident >= self.floor:
                    self.held[ident] = ("burnt",)
            self.parked = listed & set(self.held)
            self._raise(max(f.ident, self.floor))
        elif f.kind not in (wire.PONG, wire.CREDIT):
            raise Violation("a frame that only a server sends")

    def drain(self):
        """Takes no more, and says so with the last id that it took."""
        self.draining = True
        self._say(wire.DRAIN, 0, self.taken_last)

    async def ended(self):
        while self.running:
            await asyncio.wait(list(self.running.values()))
            await asyncio.sleep(0)

    def _request(self, f):
        # Looked up before anything about it is refused: a repeat gets the first answer, or waits for it (4.2).
        if f.ident in self.held:
            answer = self.held[f.ident]
            if answer == ("burnt",):
                self._say(wire.NACK, wire.BURNT, f.ident)
            elif answer is not None:
                self._say(*answer[:2], f.ident, answer[2])
            return
        if f.ident < self.floor:
            return self._say(wire.RESOLUTION, wire.FORGOTTEN, f.ident)
        if f.ident >= self.floor + self.window:
            raise Violation("an id beyond the window")
        method, handler = self.handlers.get((f.method, f.version), (None, None))
        refusal = None
        if self.draining:
            refusal = wire.DRAINING
        elif f.aux == 0:
            refusal = wire.EXPIRED
        elif len(self.running) >= self.window:
            refusal = wire.OVERLOADED
        elif method is None:
            refusal = wire.UNKNOWN_METHOD
        elif wire.find_tlv(f.tlvs, 1) is not None:
            refusal = wire.UNAVAILABLE
        else:
            try:
                value = decode(method.request, f.body)
            except (BadBody, UnicodeDecodeError):
                refusal = wire.BAD_BODY
        self.held[f.ident] = None
        if refusal is not None:
            # A refusal is the id's answer, and kept like one.
            return self._answer(f.ident, wire.NACK, refusal)
        self.taken_last = max(self.taken_last, f.ident)
        self.running[f.ident] = asyncio.ensure_future(handler(value))
        asyncio.ensure_future(self._run(f.ident, method, self.running[f.ident], f.aux / 1000))

    async def _run(self, ident, method, handler, left):
        """The handler's end, whatever it is, is answered at once."""
        try:
            done, _ = await asyncio.wait([handler], timeout=left)
            if not done:
                handler.cancel()
                return self._answer(ident, wire.FAILED, wire.DEADLINE)
            ack = method.ack.put(handler.result())
            if len(ack) + wire.HEADER.size > self.frame_bytes_max:
                return self._answer(ident, wire.FAILED, wire.TOO_LARGE)
            self._answer(ident, wire.ACK, 0, ack)
        except Rejected as no:
            self._answer(ident, wire.NACK, wire.REJECTED, method.rejection.put(no.args[0]))
        except asyncio.CancelledError:
            self._answer(ident, wire.FAILED, wire.ABORTED)
        except Exception:
            self._answer(ident, wire.FAILED, wire.PANICKED)

    def _answer(self, ident, kind, code, body=b""):
        if self.running.pop(ident, None):
            self.started_last = max(self.started_last, ident)
        # Of an id that the caller has let go, nothing is kept and nothing is said.
        if ident in self.held:
            self.held[ident] = (kind, code, body)
            self._say(kind, code, ident, body)
        if self.running:
            # Nothing is written for it alone (4.7). Handlers begin in the order of their ids.
            self._say(wire.RECEIVED, 0, self.taken_last, struct.pack("<Q", self.started_last))

    def _resolve(self, ident):
        answer = self.held.get(ident, ("burnt",))
        if ident not in self.held and ident < self.floor:
            self._say(wire.RESOLUTION, wire.FORGOTTEN, ident)
        elif answer == ("burnt",):
            # From now on it is refused, even if its frame is still on the way (4.5).
            self.held[ident] = answer
            self._say(wire.RESOLUTION, wire.NEVER_SEEN, ident)
        elif answer is None:
            self._say(wire.RESOLUTION, wire.RUNNING, ident)
        else:
            kind, code, body = answer
            word = {wire.ACK: wire.APPLIED, wire.NACK: wire.NACKED, wire.FAILED: wire.FAILURE}[kind]
            self._say(wire.RESOLUTION, word, ident, body if kind == wire.ACK else struct.pack("<I", code) + body)

    def _raise(self, floor):
        self.floor = max(self.floor, floor)
        # Handlers of ids that nobody holds any longer run on (4.5).
        self.held = {i: answer for i, answer in self.held.items() if i >= self.floor or i in self.parked}

    def _say(self, kind, aux, ident, body=b""):
        if self.send is not None:
            self.send(frame(kind, aux, ident, body=body, flags=REVERSE))
