"""What all tests of the Python client share: the service of the example `python_client`, and a wire in between."""

import asyncio
import contextlib
import sys

import rpc_client as rpc

OVERFLOW = rpc.Struct()
ADD = rpc.Method(1, rpc.Struct(a=rpc.U64, b=rpc.U64), rpc.U64, OVERFLOW)
BEHAVE = rpc.Method(2, rpc.Struct(how=rpc.TEXT), rpc.UNIT)
COUNT = rpc.Method(3, rpc.Struct(to=rpc.U64), rpc.U64, item=rpc.U64)
KIND = rpc.Enum(Empty=rpc.Struct(), Pair=rpc.Struct(**{"0": rpc.I64, "1": rpc.BOOL}), Named=rpc.Struct(name=rpc.TEXT))
EVERYTHING = rpc.Struct(
    small=rpc.U8, number=rpc.U64, signed=rpc.I64, float=rpc.F64, text=rpc.TEXT, bytes=rpc.BYTES,
    maybe=rpc.Option(rpc.TEXT), kinds=rpc.ListOf(KIND, 8),
)
ECHO = rpc.Method(4, EVERYTHING, EVERYTHING)
SEEN = rpc.Method(5, rpc.Struct(), rpc.U64)
WATCH = rpc.Method(6, rpc.Struct(slow=rpc.TEXT, entries=rpc.U64), rpc.UNIT, item=rpc.U64, lossy=rpc.TEXT)
ASK = rpc.Method(7, rpc.Struct(what=rpc.TEXT), rpc.TEXT)
METHODS = [ADD, BEHAVE, COUNT, ECHO, SEEN, WATCH, ASK]


def client(methods=METHODS, service="python", version=1, **others):
    return rpc.Client(sys.argv[1], service, version, methods, **others)


def value_of(bytes_):
    return {"small": 1, "number": 2, "signed": -3, "float": 0.5, "text": "", "bytes": b"x" * bytes_, "maybe": None, "kinds": []}


async def fails(error, awaitable, text=""):
    try:
        value = await awaitable
    except error as found:
        assert text in str(found), f"{found!r} does not say {text!r}"
        return found
    raise AssertionError(f"no {error.__name__}, but {value!r}")


async def tell(what, answer):
    """Has the example do something to its server."""
    print(what, flush=True)
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    assert line == answer + "\n", line


async def until(done):
    """Waits for a state that the next frames bring."""
    while not done():
        await asyncio.sleep(0.001)


async def seen(peer, how):
    """Until a handler has begun with `how`."""
    while await peer.call(SEEN, {}) < how:
        pass


async def begin(peer, other, how="wait"):
    """A call of `peer` whose handler has begun."""
    begun = await other.call(SEEN, {})
    call = asyncio.ensure_future(peer.call(BEHAVE, {"how": how}))
    await seen(other, begun + 1)
    return call


async def ask_about(peer, ident):
    """What the server says of an id: the code of its Resolution (3.2)."""
    codes, resolved = [], peer._resolved
    peer._resolved = lambda f: codes.append((f.ident, f.aux))
    peer._send(rpc.frame(rpc.wire.RESOLVE, 0, ident))
    await until(lambda: codes)
    peer._resolved = resolved
    assert codes[0][0] == ident
    return codes[0][1]


class Wire:
    """A socket of its own that passes bytes on, until it is told not to."""

    def __init__(self):
        self.path, self.tasks, self.writers = sys.argv[1] + "-wire", [], []
        self.up, self.down = asyncio.Event(), asyncio.Event()
        self.up.set()
        self.down.set()

    async def __aenter__(self):
        self.server = await asyncio.start_unix_server(self._accepted, self.path)
        return self

    async def __aexit__(self, *_):
        self.server.close()
        self.cut()
        for task in self.tasks:
            task.cancel()

    async def _accepted(self, reader, writer):
        theirs, to_server = await asyncio.open_unix_connection(sys.argv[1])
        self.writers += [writer, to_server]
        for source, sink, gate in ((reader, to_server, self.up), (theirs, writer, self.down)):
            self.tasks.append(asyncio.ensure_future(self._pass(source, sink, gate)))

    async def _pass(self, source, sink, gate):
        with contextlib.suppress(ConnectionError):
            while True:
                data = await source.read(1 << 16)
                await gate.wait()
                if not data:
                    break
                sink.write(data)
        sink.close()

    def cut(self):
        """What was not passed on is lost."""
        for task in self.tasks:
            task.cancel()
        for writer in self.writers:
            writer.transport.abort()
        self.tasks, self.writers = [], []
