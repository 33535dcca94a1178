"""HDF5 files, with one line for everything that can be wrong with one."""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from robotrl.core.errors import RobotrlError, UsageError, nearest
from robotrl.data.rows import check_numbers

try:
    import h5py
except ImportError as error:
    raise RobotrlError(f'h5py cannot be imported ({error}): run pip install "robotrl[data]"') from error


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open a file to read it.

    Raises:
        UsageError: there is none, it is no HDF5 file, or a part that is read of it is damaged.
    """
    if path.is_dir():
        raise UsageError(f"dataset {path} is a folder, expected an HDF5 file")
    if not path.is_file():
        raise UsageError(f"dataset {path} does not exist")
    try:
        with h5py.File(path) as file:
            yield file
    except Exception as error:  # h5py raises many kinds of Python's own
        if not _raised_in_h5py(error):
            raise
        raise UsageError(f"dataset {path} is not a whole HDF5 file: {error}") from error


def write_hdf5(path: Path, fill: Callable[[Any], None]) -> None:
    """Write a file that `fill` puts the content into.

    It is made in memory first: on a full disk HDF5's library does not report an error, it crashes.
    """
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        fill(file)
    path.write_bytes(content.getbuffer())


def read_array(group: Any, name: str, where: str) -> np.ndarray:
    """Read an array of numbers from a file or a group in it.

    Args:
        group: of h5py.
        name: of the array, "a/b" for one in a group of the group.
        where: which file and part of it, for errors.

    Raises:
        UsageError: `group` is none, there is no array of that name, or it holds no numbers.
    """
    if not isinstance(group, h5py.Group):
        raise UsageError(f"{where} is an array, expected a group of arrays")
    found = group.get(name)
    if found is None:
        names = list(map(str, group))  # one may be bytes, where it is damaged
        if name in group or name in names:
            raise UsageError(f"{where}: {name!r} leads to nothing: a link without its target, or damaged")
        raise UsageError(f"{where} has no array {name!r}{nearest(name, names)}; it has {', '.join(names)}")
    if not isinstance(found, h5py.Dataset):
        raise UsageError(f"{where}: {name!r} is a {type(found).__name__.lower()}, expected an array")
    return check_numbers(np.asarray(found[()]), name, where)


def _raised_in_h5py(error: Exception) -> bool:
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(module.split(".")[0] == "h5py" for module in modules)
