"""Large bodies: beside the event loop, one at a time."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from confidential_ml.server import large_bodies

LARGE = 1 << 20


def test_large_work_is_done_in_one_other_thread_one_after_another() -> None:
    under_way = 0
    threads = set()

    def work() -> int:
        nonlocal under_way
        under_way += 1
        threads.add(threading.get_ident())
        assert under_way == 1
        time.sleep(0.02)
        under_way -= 1
        return 7

    async def main() -> list[int]:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.001)

        other = asyncio.create_task(turn())
        results = await asyncio.gather(*(large_bodies.run(LARGE, work) for _ in range(4)))
        other.cancel()
        assert turns > 4
        return results

    assert asyncio.run(main()) == [7] * 4
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_small_work_is_done_at_once_and_errors_come_out() -> None:
    assert asyncio.run(large_bodies.run(10, threading.get_ident)) == threading.get_ident()

    def fail() -> None:
        raise LookupError("as it is")

    for size in (10, LARGE):
        with pytest.raises(LookupError, match="as it is"):
            asyncio.run(large_bodies.run(size, fail))
