"""What keeps a lane going: parked ids, keepalive in both directions, and the last words of a server."""

import asyncio
import struct

import rpc_client as rpc
from rpc_client import NotDelivered, wire
from support import *


async def call_that_is_open_for_long_is_parked():
    c, other = client(window=8), client()
    call = await begin(c, other)
    # Far more than the window, while id 1 is open.
    for n in range(100):
        assert await c.call(ADD, {"a": n, "b": 1}) == n + 1
    assert c.parked == {1} and c.next_id == 102, (c.parked, c.next_id)
    await other.call(BEHAVE, {"how": "release"})
    assert await call is None, "its answer was kept and came"
    await c.call(SEEN, {})
    assert await ask_about(c, 1) == wire.FORGOTTEN, "the next Park does not list it"
    await c.close()
    await other.close()


async def parked_ids_are_listed_again_after_a_loss():
    async with Wire() as between:
        c, other = client(window=8), client()
        c.path = between.path
        call = await begin(c, other)
        for n in range(6):
            await c.call(SEEN, {})
        # The Park goes out and never arrives.
        between.up.clear()
        lost = [asyncio.ensure_future(c.call(ADD, {"a": n, "b": 0})) for n in range(2)]
        await until(lambda: c.parked == {1})
        between.cut()
        between.up.set()
        assert await asyncio.gather(*lost, return_exceptions=True) != [0, 1], "the server never saw them"
        for n in range(20):
            await c.call(SEEN, {})
        await other.call(BEHAVE, {"how": "release"})
        assert await call is None
        assert c.epoch == 2, c.epoch
        await c.close()
        await other.close()


async def large_answer_is_let_go_without_a_further_request():
    c = client()
    assert await c.call(ECHO, value_of(100)) == value_of(100)
    assert await ask_about(c, 1) == wire.APPLIED, "kept until a floor passes it"
    assert await c.call(ECHO, value_of(5000)) == value_of(5000)
    assert await ask_about(c, 2) == wire.FORGOTTEN
    await c.close()


async def both_sides_ask_a_silent_peer():
    await tell("restart impatient", "restarted")
    c, other = client(), client()
    call = await begin(c, other)
    # Who has not heard the answer to its question asks no second one on that connection: it ends it.
    await until(lambda: c.pings >= 2)
    await other.call(BEHAVE, {"how": "release"})
    await call
    await c.close()
    await other.close()
    await tell("restart", "restarted")
    c, other = client(), client()
    c.keepalive, c.keepalive_timeout = 0.01, 0.5
    call = await begin(c, other)
    await until(lambda: c.pongs >= 2)
    await other.call(BEHAVE, {"how": "release"})
    await call
    await c.close()
    await other.close()


async def ping_carries_the_floor():
    c = client()
    assert await c.call(ADD, {"a": 1, "b": 2}) == 3
    assert await ask_about(c, 1) == wire.APPLIED
    c._send(rpc.frame(wire.PING, 0, 7, struct.pack("<Q", c._floor())))
    await until(lambda: c.pongs == 1)
    assert await ask_about(c, 1) == wire.FORGOTTEN
    await c.close()


async def silent_peer_is_given_up_and_asked_for_anew():
    async with Wire() as between:
        c, other = client(), client()
        c.path, c.keepalive, c.keepalive_timeout = between.path, 0.05, 0.05
        call = await begin(c, other)
        between.down.clear()
        await until(lambda: c.epoch > 1)
        c.keepalive = c.keepalive_timeout = 15
        between.down.set()
        await other.call(BEHAVE, {"how": "release"})
        assert await call is None, "a loss is a doubt, and the doubt was resolved"
        await c.close()
        await other.close()


async def drain_says_how_far_the_server_came():
    c, other = client(), client()
    call = await begin(c, other)
    # It takes up nothing more of a peer that leaves its answers unread.
    c.reading.clear()
    echoes = [asyncio.ensure_future(c.call(ECHO, value_of(1 << 16))) for _ in range(100)]
    await until(lambda: len(c.held) == 101)
    await tell("drain", "draining")
    c.reading.set()
    answers = await asyncio.gather(*echoes, return_exceptions=True)
    kinds = {type(answer) for answer in answers}
    assert kinds == {dict, NotDelivered}, kinds
    # By the server's word: what was taken has its answer, and nothing above it was.
    kind, _, taken_last = c.last_words[0]
    assert kind == wire.DRAIN
    assert [type(answer) for answer in answers].index(NotDelivered) == taken_last - 1, taken_last
    assert {str(answer) for answer in answers[taken_last - 1:]} == {"refused: draining"}, "by that word, not one by one"
    await fails(NotDelivered, c.call(SEEN, {}), "draining")
    await tell("release", "released")
    assert await call is None, "what was taken is answered"
    # With nothing open, the connection is left, and the server ends.
    await other.close()
    await tell("drained?", "drained")
    await tell("restart", "restarted")
    assert await c.call(ADD, {"a": 1, "b": 1}) == 2, "the next server is found"
    await c.close()


async def goodbye_says_how_far_the_server_came():
    c, other = client(), client()
    begun = await other.call(SEEN, {})
    await c.call(SEEN, {})
    call = asyncio.ensure_future(c.call(BEHAVE, {"how": "wait"}))
    await until(lambda: len(c.held) == 1)
    # A frame that no client may send; what stands behind it, in the same write, is not taken up.
    frames, send = [rpc.frame(wire.WELCOME)], c._send
    c._send = frames.append
    late = asyncio.ensure_future(c.call(BEHAVE, {"how": "never"}))
    await until(lambda: len(frames) == 2)
    c._send = send
    c._send(b"".join(frames))
    await fails(NotDelivered, late, "violation")
    assert c.last_words[0] == (wire.GOODBYE, wire.VIOLATION, 2), c.last_words
    await seen(other, begun + 1)
    # What was taken is in doubt, and asked for on the next connection.
    await other.call(BEHAVE, {"how": "release"})
    assert await call is None
    assert c.epoch == 2 and await other.call(SEEN, {}) == begun + 1
    await c.close()
    await other.close()


TESTS = [
    call_that_is_open_for_long_is_parked, parked_ids_are_listed_again_after_a_loss,
    large_answer_is_let_go_without_a_further_request, both_sides_ask_a_silent_peer, ping_carries_the_floor,
    silent_peer_is_given_up_and_asked_for_anew, drain_says_how_far_the_server_came, goodbye_says_how_far_the_server_came,
]
