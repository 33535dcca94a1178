"""Threads that advance streams side by side; the kernels leave the interpreter's lock to the others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from robotrl.algorithms.streaming.state import Workspace

# handing a stream to another thread costs as much as advancing a few of them
_MIN_STREAMS_PER_THREAD = 4


class Workers:
    """Splits N streams among threads, each with a workspace of its own.

    Args:
        num_streams: N.
        most_threads: threads, at least 1; fewer are used where each would have too few streams.
        new_workspace: makes a workspace.
    """

    def __init__(self, num_streams: int, most_threads: int, new_workspace: Callable[[], Workspace]) -> None:
        self.num_threads = max(1, min(most_threads, num_streams // _MIN_STREAMS_PER_THREAD))
        self._bounds = np.linspace(0, num_streams, self.num_threads + 1).astype(int).tolist()
        self._workspaces = [new_workspace() for _ in range(self.num_threads)]
        self._pool = self._new_pool()

    def run(self, advance: Callable[[int, int, Workspace], None]) -> None:
        """Call `advance` with the first stream, the one after the last, and the workspace of each thread."""

        def part(thread: int) -> None:
            advance(self._bounds[thread], self._bounds[thread + 1], self._workspaces[thread])

        if self._pool is None:
            part(0)
            return
        pending = [self._pool.submit(part, thread) for thread in range(1, self.num_threads)]
        part(0)
        for done in pending:
            done.result()

    def _new_pool(self) -> ThreadPoolExecutor | None:
        return ThreadPoolExecutor(self.num_threads - 1, "streams") if self.num_threads > 1 else None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy begins with, threads excepted."""
        return self.__dict__ | {"_pool": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy, with threads of its own."""
        self.__dict__.update(state)
        self._pool = self._new_pool()
