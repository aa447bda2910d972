"""Streams: credit, and what a reader is told that does not keep up."""

import rpc_client as rpc
from support import *


async def stream_flows_under_credit():
    c = client()
    ack, items = await c.open(COUNT, {"to": 1000})
    assert ack == 1000
    # Nobody reads: the server may send no more than was granted, and other calls go on.
    for _ in range(50):
        await c.call(SEEN, {})
    assert items.queue.qsize() == c.stream_items, items.queue.qsize()
    assert [item async for item in items] == list(range(1000))
    _, items = await c.open(COUNT, {"to": 1000})
    async for item in items:
        if item == 20:
            items.close()
            break
    assert await c.call(ADD, {"a": 1, "b": 1}) == 2
    _, items = await c.open(COUNT, {"to": 1000})
    c.cut()
    await fails(ConnectionError, exhaust(items))
    await c.close()


async def exhaust(items):
    async for _ in items:
        pass


async def all_events(items):
    return [event async for event in items.events()]


async def gaps_are_told_in_their_place():
    c, entries = client(), 5000
    _, items = await c.open(WATCH, {"slow": "drop", "entries": entries})
    # Nobody reads until the producer is through: it never waited.
    while await c.call(ASK, {"what": "watched"}) != "ended":
        pass
    assert items.queue.qsize() == c.stream_items, items.queue.qsize()
    events = await all_events(items)
    # Entry n is item 2 n of the stream, and its hint is item 2 n + 1.
    position, missing, kinds = 0, [0, 0], set()
    for what, value in events:
        kinds.add(what)
        if what == "resync":
            cursor, items_missing, lossy_missing = value
            position, missing = position + items_missing + lossy_missing, [missing[0] + items_missing, missing[1] + lossy_missing]
            assert cursor == position, (cursor, position)
        else:
            assert value == (position // 2 if what == "item" else str(position // 2)), (what, value, position)
            assert position % 2 == (what == "lossy")
            position += 1
    assert position == 2 * entries, position
    assert kinds == {"item", "lossy", "resync"}, kinds
    assert [sum(what == kind for what, _ in events) for kind in ("item", "lossy")] == [entries - m for m in missing]
    assert missing[0] and missing[1], missing
    # Who reads only items is told that it has not read all.
    _, items = await c.open(WATCH, {"slow": "drop", "entries": entries})
    while await c.call(ASK, {"what": "watched"}) != "ended":
        pass
    await fails(ConnectionError, exhaust(items), "are missing")
    await c.close()


async def resyncs_that_follow_each_other_are_one():
    items = rpc.Stream()
    for event in (("resync", (3, 1, 2)), ("resync", (7, 4, 0)), ("end", None)):
        items.queue.put_nowait(event)
    assert await all_events(items) == [("resync", (7, 5, 2))]


async def reader_that_is_too_slow_loses_the_stream():
    c = client()
    _, items = await c.open(WATCH, {"slow": "close", "entries": 5000})
    while await c.call(ASK, {"what": "watched"}) != "ended":
        pass
    await fails(ConnectionError, all_events(items), "too slow")
    await c.close()


TESTS = [
    stream_flows_under_credit, gaps_are_told_in_their_place, resyncs_that_follow_each_other_are_one,
    reader_that_is_too_slow_loses_the_stream,
]
