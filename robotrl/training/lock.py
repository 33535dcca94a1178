"""One writer per run: a lock that the kernel releases with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from robotrl.core.errors import RobotrlError, UsageError

LOCK_FILE = "training.lock"


@contextmanager
def training_lock(run: Path) -> Iterator[None]:
    """Hold a run for training.

    A process that was killed leaves the file but no lock on it: the next one takes it over.

    Args:
        run: the run folder.

    Raises:
        UsageError: a process is training the run already; says which.
        RobotrlError: the folder cannot be written, or its file system has no locks.
    """
    path = run / LOCK_FILE
    try:
        descriptor = _acquire(path)
    except OSError as error:
        raise RobotrlError(f"cannot lock run {run} with {path.name}: {error.strerror}") from error
    try:
        since = datetime.now(UTC).isoformat(" ", "seconds")
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()} since {since}".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Open and lock the file, made where it is missing; return its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _names(path, descriptor):
                return descriptor
        except BlockingIOError as error:
            holder = os.read(descriptor, 1_000).decode() or "another process"
            os.close(descriptor)
            raise UsageError(
                f"run {path.parent} is being trained by {holder}: wait for its end, or stop it first"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it between our two calls


def _names(path: Path, descriptor: int) -> bool:
    """Whether `path` still is the name of the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
