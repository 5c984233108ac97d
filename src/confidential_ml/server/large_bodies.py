"""Read and write large bodies beside the event loop, one at a time.

A JSON body takes up to thirty times its size while it is read. With one thread for all of them that memory is needed
once, however many requests there are, and other requests are answered meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["run"]

T = TypeVar("T")

_INLINE_BYTES = 1 << 16  # smaller ones take less than a millisecond
_thread = ThreadPoolExecutor(1, thread_name_prefix="confidential_ml-bodies")


async def run(size: int, work: Callable[[], T]) -> T:
    """Do the work for a body of so many bytes; what it raises comes out here."""
    if size <= _INLINE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_thread, work)
