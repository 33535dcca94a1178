"""Pictures of many simulations, drawn by several threads: an OpenGL context belongs to one thread."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import TypeAlias

import mujoco
import numpy as np

from robotrl.core.errors import UsageError
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.cameras import FreeCamera, View, find_camera
from robotrl.sim.rendering import Canvas, Quality

_Jobs = SimpleQueue[Callable[[Canvas], None] | None]
_Camera: TypeAlias = mujoco.MjvCamera | FreeCamera


class BatchRenderer:
    """Draws views of chosen simulations, each with its own model fields and state.

    The pictures do not depend on the number of threads, which end with the renderer.

    Args:
        sim: the simulations. Meshes, textures and height fields are those of its model.
        views: what to draw of every simulation.
        quality: see `Quality`.
        num_threads: None for all CPUs this process may use, or fewer for fewer simulations.

    Raises:
        UsageError: the model has no such camera, there is no view, or num_threads is below 1.
        RobotrlError: the graphics library is missing or fails.
    """

    def __init__(
        self,
        sim: BatchSim,
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
        self._jobs: _Jobs = SimpleQueue()
        threads: list[threading.Thread] = []
        # no method of this object: its threads must not keep it alive
        self._stop = weakref.finalize(self, _stop, self._jobs, threads)
        # the graphics library registers its own end with the first context: threads must end before
        self._stop.atexit = False

        def start() -> Future[None]:
            ready: Future[None] = Future()
            arguments = (self._jobs, lambda: Canvas(sim, *size, quality), ready)
            thread = threading.Thread(target=_work, args=arguments, name="render", daemon=True)
            threads.append(thread)
            thread.start()
            return ready

        start().result()  # alone: it loads the library
        atexit.register(self._stop)
        try:
            for ready in [start() for _ in range(self.num_threads - 1)]:
                ready.result()
        except BaseException:
            self.close()
            raise

    def submit(self, ids: Sequence[int] | None = None) -> Drawing:
        """Begin to draw simulations `ids`, None for all; return when the simulations may go on.

        Their states are copied by then, most pictures are not drawn yet: ask the result for them.

        Raises:
            UsageError: the renderer is closed.
        """
        if not self._stop.alive:
            raise UsageError("this renderer is closed")
        ids = range(self._num_envs) if ids is None else ids
        drawing = Drawing(self.views, self._cameras, len(ids))
        for row, sim_id in enumerate(ids):
            self._jobs.put(drawing.job(row, int(sim_id)))
        drawing.wait_loaded()
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
        self._loaded, self._drawn = _Countdown(n), _Countdown(n)
        self._error: BaseException | None = None

    def job(self, row: int, sim_id: int) -> Callable[[Canvas], None]:
        """Return what a thread does for one simulation."""

        def draw(canvas: Canvas) -> None:
            try:
                try:
                    canvas.load(sim_id)
                finally:
                    self._loaded.down()
                for (view, camera), pictures in zip(self._views, self._pictures, strict=True):
                    canvas.draw(camera, view.kind, pictures[row])
            except BaseException as error:
                self._error = error
            finally:
                self._drawn.down()

        return draw

    def wait_loaded(self) -> None:
        """Wait until every state is copied."""
        self._loaded.wait()

    def result(self) -> list[np.ndarray]:
        """Wait for the pictures; see `BatchRenderer.render`."""
        self._drawn.wait()
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


def _work(jobs: _Jobs, make_canvas: Callable[[], Canvas], ready: Future[None]) -> None:
    """What a thread does: make a canvas, draw on it until there is no more to come."""
    try:
        canvas = make_canvas()
    except BaseException as error:
        ready.set_exception(error)
        return
    ready.set_result(None)
    while (job := jobs.get()) is not None:
        job(canvas)
    canvas.close()


def _stop(jobs: _Jobs, threads: Sequence[threading.Thread]) -> None:
    for _ in threads:
        jobs.put(None)
    for thread in threads:
        # the garbage collector may run in any thread
        if thread is not threading.current_thread():
            thread.join()
