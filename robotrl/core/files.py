"""Writing files so that a name holds the whole new content or what it held before, never half of it."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from robotrl.core.errors import UsageError


def _beside(path: Path) -> Path:
    # not the process's number, which comes again in containers
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file beside `path`, then rename it into place.

    The content is on the disk before the name points to it, so that a power cut cannot leave an empty
    file. Whatever goes wrong, the temporary file is removed and `path` is as it was.

    Args:
        path: of the file to make or to replace.
        write: gets the path of the temporary file and writes it whole.
    """
    aside = _beside(path)
    try:
        write(aside)
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_text_aside(path: Path, text: str) -> None:
    """Write `text` as UTF-8 by `write_aside`."""
    write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` to be filled, then rename it into place.

    The files are on the disk before the name points to them. Whatever goes wrong, the temporary folder
    is removed.

    Args:
        path: of the folder to make.

    Raises:
        FileExistsError: something is at `path`, at the start or at the end: it is left as it was.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists")
    aside = _beside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside.mkdir()
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                with open(file, "rb+") as opened:
                    os.fsync(opened.fileno())
        if path.exists():  # a rename would replace an empty folder
            raise FileExistsError(f"{path} exists")
        try:
            os.rename(aside, path)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:  # made since the line above
                raise FileExistsError(f"{path} exists") from error
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def writable_parent(path: Path) -> Iterator[None]:
    """Make the folders above `path` before the work that is to fill it; remove those still empty after it.

    Args:
        path: of a file or folder to be made.

    Raises:
        UsageError: they cannot be made or written.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise UsageError(f"{path} cannot be made: {error.strerror}") from error
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # it holds something, or was never made
                folder.rmdir()
