"""What the Python client learns from a real server. Run by the example `python_client`, which is that server:
argv[1] is its socket. A line on our standard output tells it what to do, and a line comes back:
`restart` (it loses its memory), `drain`, `drained?`, `release` (what waits goes on).
"""

import asyncio

import test_both_ways
import test_calls
import test_lanes
import test_streams


async def main():
    for tests in (test_calls, test_streams, test_lanes, test_both_ways):
        for test in tests.TESTS:
            await asyncio.wait_for(test(), 20)
            print("ok", test.__name__, flush=True)
    print("done", flush=True)


asyncio.run(main())
