"""HDF5 files, with one line for everything that can be wrong with one."""

from __future__ import annotations

import io
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
        UsageError: there is none, or it is no HDF5 file.
    """
    if not path.is_file():
        raise UsageError(f"dataset {path} does not exist")
    try:
        file = h5py.File(path)
    except OSError as error:
        raise UsageError(f"dataset {path} is not a whole HDF5 file: {error}") from error
    with file:
        yield file


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
        UsageError: `group` is none, there is no array of that name, it holds no numbers or cannot be read.
    """
    if not isinstance(group, h5py.Group):
        raise UsageError(f"{where} is an array, expected a group of arrays")
    found = group.get(name)
    if not isinstance(found, h5py.Dataset):
        raise UsageError(f"{where} has no array {name!r}{nearest(name, group)}; it has {', '.join(group)}")
    try:
        values = np.asarray(found[()])
    except (OSError, RuntimeError, ValueError) as error:  # what h5py makes of a damaged file
        raise UsageError(f"{where}: array {name!r} cannot be read: {error}") from error
    return check_numbers(values, name, where)
