"""Calls: their outcomes, doubts, cancels and deadlines."""

import asyncio
import sys

import rpc_client as rpc
from rpc_client import NotDelivered, Rejected, Unknown
from support import *


async def acks_and_rejections():
    c = client()
    assert await c.call(ADD, {"a": 1, "b": 2}) == 3
    await fails(Rejected, c.call(ADD, {"a": (1 << 64) - 1, "b": 1}))
    sums = await asyncio.gather(*(c.call(ADD, {"a": n, "b": n}) for n in range(500)))
    assert sums == [2 * n for n in range(500)]
    await c.close()


async def every_type_comes_back_as_it_went():
    c = client()
    for number in (0, 250, 251, 1 << 16, (1 << 32) - 1, 1 << 32, (1 << 64) - 1):
        for signed in (0, -1, 125, -126, 1 << 31, -(1 << 63), (1 << 63) - 1):
            value = {
                "small": number & 255, "number": number, "signed": signed, "float": -0.5, "text": "h\u00e9", "bytes": b"\0\xff",
                "maybe": None if number else "some", "kinds": [
                    ("Empty", {}), ("Pair", {"0": signed, "1": True}), ("Named", {"name": "x" * 300}),
                ],
            }
            assert await c.call(ECHO, value) == value
    await c.close()


async def what_is_not_taken_was_not_delivered():
    wrong = rpc.Method(1, rpc.Struct(a=rpc.U64, c=rpc.U64), rpc.U64, OVERFLOW)
    c = client([wrong, SEEN])
    await fails(NotDelivered, c.call(wrong, {"a": 1, "c": 2}), "schema mismatch")
    await c.call(SEEN, {})
    unknown = rpc.Method(99, rpc.Struct(), rpc.UNIT)
    await fails(NotDelivered, c.call(unknown, {}), "unknown method")
    bad = rpc.Method(3, rpc.Struct(), rpc.UNIT)
    await fails(NotDelivered, client([]).call(bad, {}), "bad body")
    await fails(NotDelivered, client(version=2).call(SEEN, {}), "service")
    await fails(NotDelivered, client(service="other").call(SEEN, {}), "service")
    nobody = rpc.Client(sys.argv[1] + "-nobody", "python", 1, METHODS)
    await fails(NotDelivered, nobody.call(SEEN, {}), "No such file")
    await fails(NotDelivered, c.call(BEHAVE, {"how": "x" * (1 << 20)}), "too large")
    await c.close()


async def doubt_is_told_and_resolved():
    c = client()
    await fails(Unknown, c.call(BEHAVE, {"how": "panic"}), "panicked")
    # By our own clock or the server's: both have the same deadline.
    await fails(Unknown, c.call(BEHAVE, {"how": "wait"}, deadline=0.2), "deadline")
    other = client()
    begun = await other.call(SEEN, {})
    call = asyncio.ensure_future(c.call(BEHAVE, {"how": "wait"}))
    await seen(other, begun + 1)
    path, c.path = c.path, c.path + "-nobody"
    c.cut()
    doubt = await fails(Unknown, call, "cannot be reached")
    await other.call(BEHAVE, {"how": "release"})
    c.path = path
    # It was applied meanwhile, and its answer was kept.
    assert await doubt.resolve() is None
    await c.close()
    await other.close()


async def cancel_stops_the_handler():
    c, other = client(), client()
    begun = await other.call(SEEN, {})
    call = asyncio.ensure_future(c.call(BEHAVE, {"how": "until dropped"}))
    await seen(other, begun + 1)
    call.cancel()
    # Its drop counts as one more.
    await seen(other, begun + 2)
    await c.close()
    await other.close()


async def lost_connection_is_taken_up_again():
    c, other = client(), client()
    begun = await other.call(SEEN, {})
    call = asyncio.ensure_future(c.call(BEHAVE, {"how": "wait"}))
    await seen(other, begun + 1)
    c.cut()
    # While it runs: the new connection is told *running*, and gets its answer.
    await other.call(BEHAVE, {"how": "release"})
    assert await call is None
    assert c.epoch == 2, c.epoch
    assert await c.call(ADD, {"a": 1, "b": 1}) == 2
    await c.close()
    await other.close()


async def restarted_server_knows_nothing():
    c = client()
    begun = await c.call(SEEN, {})
    other = client()
    call = asyncio.ensure_future(c.call(BEHAVE, {"how": "wait"}))
    await seen(other, begun + 1)
    await tell("restart", "restarted")
    await fails(Unknown, call, "no longer remembers")
    assert await c.call(ADD, {"a": 20, "b": 1}) == 21
    await c.close()
    await other.close()


async def stages_ride_on_what_leaves_anyway():
    c, other = client(), client()
    await c.call(SEEN, {})
    call = await begin(c, other)
    assert c.received < 2, "nothing is written for it alone"
    await c.call(SEEN, {})
    assert (c.received, c.started) >= (2, 2), (c.received, c.started)
    await other.call(BEHAVE, {"how": "release"})
    await call
    await c.close()
    await other.close()


TESTS = [
    acks_and_rejections, every_type_comes_back_as_it_went, what_is_not_taken_was_not_delivered,
    doubt_is_told_and_resolved, cancel_stops_the_handler, lost_connection_is_taken_up_again,
    restarted_server_knows_nothing, stages_ride_on_what_leaves_anyway,
]
