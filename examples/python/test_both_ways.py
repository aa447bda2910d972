"""Calls of the accepting side: this client answers them."""

import asyncio

import rpc_client as rpc
from rpc_client import Rejected
from support import *

MULTIPLY = rpc.Method(1, rpc.Struct(a=rpc.U64, b=rpc.U64), rpc.U64, OVERFLOW)
WORK = rpc.Method(2, rpc.Struct(how=rpc.TEXT), rpc.U64)


class Works:
    """What the calls back find here."""

    def __init__(self):
        self.begun = self.stopped = self.applied = 0
        self.release = asyncio.Event()
        self.client = None

    async def multiply(self, m):
        product = m["a"] * m["b"]
        if product >> 64:
            raise Rejected({})
        return product

    async def work(self, m):
        self.begun += 1
        try:
            if m["how"] == "panic":
                raise RuntimeError("as told")
            if m["how"] == "nest":
                return await self.client.call(ADD, {"a": 40, "b": 2})
            await self.release.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        self.applied += 1
        return self.applied

    def client_that_serves(self):
        self.client = client(serves=("back", 1, [(MULTIPLY, self.multiply), (WORK, self.work)]))
        return self.client


async def outcomes_of_calls_back():
    works = Works()
    c = works.client_that_serves()
    for what, outcome in (
        ("multiply", "ack 42"), ("overflow", "rejected"), ("nest", "ack 42"), ("panic", "unknown HandlerPanicked"),
        ("deadline", "unknown Deadline"), ("missing", "not delivered UnknownMethod { method: 9, version: 1 }"),
    ):
        assert await c.call(ASK, {"what": what}) == outcome, (what, await c.call(ASK, {"what": what}), outcome)
    await until(lambda: works.stopped == 1)
    # Cancelling our call stops its handler there, and with it what that has called here.
    asked = asyncio.ensure_future(c.call(ASK, {"what": "work"}))
    await until(lambda: works.begun == 4)
    asked.cancel()
    await until(lambda: works.stopped == 2)
    # How far calls have come rides on the answers of others.
    assert await c.call(ASK, {"what": "started"}) == "started"
    assert await c.call(ADD, {"a": 1, "b": 1}) == 2 and c.epoch == 1
    await c.close()
    # Who serves nothing cannot be called back.
    c = client()
    assert await c.call(ASK, {"what": "multiply"}) == "not delivered NotServed"
    await c.close()


async def call_back_outlives_its_connection():
    works, other = Works(), client()
    c = works.client_that_serves()
    asked = asyncio.ensure_future(c.call(ASK, {"what": "work"}))
    await until(lambda: works.begun == 1)
    c.cut()
    await until(lambda: c.epoch == 2 and c.welcome.is_set())
    works.release.set()
    assert await asked == "ack 1"
    assert (works.begun, works.stopped) == (1, 0), "it was asked for, not made again"
    await c.close()
    await other.close()


async def answer_that_was_lost_is_given_again():
    works = Works()
    async with Wire() as between:
        c = works.client_that_serves()
        c.path = between.path
        asked = asyncio.ensure_future(c.call(ASK, {"what": "work"}))
        await until(lambda: works.begun == 1)
        # The answer goes out and never arrives.
        between.up.clear()
        works.release.set()
        await until(lambda: works.applied == 1)
        between.cut()
        between.up.set()
        assert await asked == "ack 1"
        assert works.begun == 1, works.begun
        await c.close()


async def client_that_ends_drains_what_it_answers():
    works, other = Works(), client()
    c = works.client_that_serves()
    assert await c.call(ASK, {"what": "keep"}) == "kept"
    asked = asyncio.ensure_future(other.call(ASK, {"what": "kept work"}))
    await until(lambda: works.begun == 1)
    closing = asyncio.ensure_future(c.close())
    # Once the server has read this, it has read the Drain before it, and sends no further request.
    await c.call(SEEN, {})
    assert await other.call(ASK, {"what": "kept multiply"}) == "not delivered Draining"
    assert list(c.serving.held) == [1], c.serving.held
    works.release.set()
    await closing
    assert await asked == "ack 1", "what was taken is answered"
    assert works.begun == 1
    await other.close()


TESTS = [
    outcomes_of_calls_back, call_back_outlives_its_connection, answer_that_was_lost_is_given_again,
    client_that_ends_drains_what_it_answers,
]
