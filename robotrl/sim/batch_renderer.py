"""Pictures of many simulations, drawn by several threads: an OpenGL context belongs to one thread."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import TypeAlias

import mujoco
import numpy as np

from robotrl.core.errors import UsageError
from robotrl.sim.cameras import FreeCamera, View, find_camera
from robotrl.sim.rendering import Canvas, Quality, Snapshot
from robotrl.sim.sim import Sim

_Jobs = SimpleQueue[Callable[[Canvas], None] | None]
_Camera: TypeAlias = mujoco.MjvCamera | FreeCamera


class BatchRenderer:
    """Draws views of chosen simulations, each with its own model fields and state.

    The pictures do not depend on the number of threads, which end with the renderer. Use it from one
    thread at a time.

    Args:
        sim: the simulations.
        views: what to draw of every simulation.
        quality: see `Quality`.
        num_threads: None for all CPUs this process may use, or fewer for fewer simulations; with 1 the
            calling thread draws.

    Raises:
        UsageError: the model has no such camera, there is no view, or num_threads is below 1.
        RobotrlError: the graphics library is missing or fails.
    """

    def __init__(
        self,
        sim: Sim,
        views: Sequence[View],
        quality: Quality = Quality.FAST,
        num_threads: int | None = None,
    ) -> None:
        if not views:
            raise UsageError("a renderer needs at least one view")
        if num_threads is not None and num_threads < 1:
            raise UsageError(f"num_threads must be at least 1, got {num_threads}")
        self.views = tuple(views)
        self.num_threads = num_threads or min(len(os.sched_getaffinity(0)), sim.num_envs)
        self._num_envs = sim.num_envs
        self._cameras = [find_camera(sim.model, view.camera) for view in views]
        size = max(view.width for view in views), max(view.height for view in views)
        # alone and first: it loads the library
        canvases = [Canvas(sim.models, *size, quality)]
        self._canvas = canvases[0] if self.num_threads == 1 else None
        self._jobs: _Jobs = SimpleQueue()
        end: Callable[[], None] = canvases[0].close
        if self.num_threads > 1:
            with ThreadPoolExecutor() as pool:
                made = pool.map(lambda _: Canvas(sim.models, *size, quality), range(1, self.num_threads))
                canvases += made
            # no method of this object is their target: they must not keep it alive
            threads = [
                threading.Thread(target=_work, args=(self._jobs, canvas), name="render", daemon=True)
                for canvas in canvases
            ]
            for thread in threads:
                thread.start()
            end = partial(_end, self._jobs, threads)
        self._stop = weakref.finalize(self, end)
        # the graphics library registered its own end with the first context: this must come before
        self._stop.atexit = False
        atexit.register(self._stop)
        # those that are drawn, and two to fill meanwhile
        self._free: SimpleQueue[Snapshot] = SimpleQueue()
        for _ in range(self.num_threads + 2 if self.num_threads > 1 else 1):
            self._free.put(Snapshot(sim))

    def submit(self, ids: Sequence[int] | None = None) -> Drawing:
        """Begin to draw simulations `ids`, None for all; return when the simulations may go on.

        Their states are copied by then, the last pictures may not be drawn yet: ask the result for them.

        Raises:
            UsageError: the renderer is closed.
            IndexError: there is no such simulation.
        """
        if not self._stop.alive:
            raise UsageError("this renderer is closed")
        ids = range(self._num_envs) if ids is None else ids
        drawing = Drawing(self.views, self._cameras, len(ids))
        with nullcontext() if self._canvas is None else self._canvas.current():
            for row, sim_id in enumerate(ids):
                snapshot = self._free.get()
                try:
                    snapshot.load(int(sim_id))
                except BaseException:
                    self._free.put(snapshot)
                    raise
                job = drawing.job(row, snapshot, self._free)
                if self._canvas is None:
                    self._jobs.put(job)
                else:
                    job(self._canvas)
        return drawing

    def render(self, ids: Sequence[int] | None = None) -> list[np.ndarray]:
        """Draw simulations `ids` as they are now, None for all.

        Returns:
            An array per view, its rows in the order of `ids`: (n, height, width, 3) uint8 for RGB,
            (n, height, width) float32 m for depth.
        """
        return self.submit(ids).result()

    def close(self) -> None:
        """Finish what is submitted, then end the threads; the renderer cannot be used afterwards."""
        self._stop()
        atexit.unregister(self._stop)

    def __enter__(self) -> BatchRenderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Drawing:
    """Pictures that are being drawn; see `BatchRenderer.submit`."""

    def __init__(self, views: Sequence[View], cameras: Sequence[_Camera], n: int) -> None:
        self._views = list(zip(views, cameras, strict=True))
        self._pictures = [view.pictures(n) for view in views]
        self._missing = _Countdown(n)
        self._error: BaseException | None = None

    def job(self, row: int, snapshot: Snapshot, free: SimpleQueue[Snapshot]) -> Callable[[Canvas], None]:
        """Return what a thread does for one simulation; it puts the snapshot back to the free ones."""

        def draw(canvas: Canvas) -> None:
            try:
                for (view, camera), pictures in zip(self._views, self._pictures, strict=True):
                    canvas.draw(snapshot, camera, view.kind, pictures[row])
            except BaseException as error:
                self._error = error
            finally:
                free.put(snapshot)
                self._missing.down()

        return draw

    def result(self) -> list[np.ndarray]:
        """Wait for the pictures; see `BatchRenderer.render`."""
        self._missing.wait()
        if self._error is not None:
            raise self._error
        return self._pictures


class _Countdown:
    """Lets one thread wait until others have counted to n."""

    def __init__(self, n: int) -> None:
        self._left = n
        self._lock = threading.Lock()
        self._zero = threading.Event()
        if n == 0:
            self._zero.set()

    def down(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._zero.set()

    def wait(self) -> None:
        self._zero.wait()


def _work(jobs: _Jobs, canvas: Canvas) -> None:
    with canvas.current():
        while (job := jobs.get()) is not None:
            job(canvas)
    canvas.close()


def _end(jobs: _Jobs, threads: Sequence[threading.Thread]) -> None:
    for _ in threads:
        jobs.put(None)
    for thread in threads:
        # the garbage collector may run in any thread
        if thread is not threading.current_thread():
            thread.join()
