"""OGBench's npz files (Park et al. 2024, arXiv:2410.20092): arrays over all observations."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robotrl.core.errors import UsageError, nearest
from robotrl.data.dataset import Dataset
from robotrl.data.rows import Rows, check_numbers, check_rows, truth_values

_ARRAYS = ("observations", "actions", "terminals", "rewards")


def read_ogbench(path: Path) -> Dataset:
    """Read OGBench's arrays; `masks` may be missing.

    The last row of an episode, where `terminals` is 1, only holds what came after its last action, at a
    time limit. A true end state is where `masks` is 0: there an episode is split in two.

    Raises:
        UsageError: an array is missing, the shapes do not fit, a flag is neither 0 nor 1 or the last
            episode has no end.
    """
    where = f"dataset {path}"
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it is a single array (.npy)")
        with loaded as file:
            names = file.files
            arrays = {name: file[name] for name in names if name in (*_ARRAYS, "masks")}
    except Exception as error:  # numpy, zipfile and zlib know many kinds of damage
        raise UsageError(
            f"{where} is not a whole npz file of numbers: {str(error) or type(error).__name__}"
        ) from error
    for name, values in arrays.items():
        check_numbers(values, name, where)
    for name in _ARRAYS:
        if name not in arrays:
            hint = ": relabel it for one of its tasks" if name == "rewards" else nearest(name, names)
            raise UsageError(f"{where} has no array {name!r}{hint}; it has {', '.join(names)}")
    check_rows(where, arrays)
    obs, action, terminals, reward = (arrays[name] for name in _ARRAYS)
    observed_only = truth_values(terminals, "terminals", where)
    if not observed_only[-1]:
        raise UsageError(f"{where} has no end of its last episode: the last of `terminals` is 0")
    rows = np.arange(len(reward))
    terminated = np.zeros_like(observed_only)
    if "masks" in arrays:
        terminated = ~truth_values(arrays["masks"], "masks", where)
    ends = terminated | np.append(observed_only[1:], True)
    content = Rows(obs, rows + 1, action, reward, terminated, ends, rows[~observed_only])
    return content.to_dataset(str(path), {"format": "OGBench"})
