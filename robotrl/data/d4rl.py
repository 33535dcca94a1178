"""D4RL's HDF5 files (Fu et al. 2020, arXiv:2004.07219): arrays over all steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robotrl.core.errors import UsageError
from robotrl.data.dataset import Dataset
from robotrl.data.hdf5 import open_hdf5, read_array
from robotrl.data.rows import Rows, check_rows

_ARRAYS = ("observations", "actions", "rewards", "terminals")
_OPTIONAL = ("timeouts", "next_observations")


def read_d4rl(path: Path) -> Dataset:
    """Read D4RL's arrays; `timeouts` and `next_observations` may be missing.

    Without `next_observations` nobody knows what came after the last row of an episode. If the episode was
    terminated that does not matter: its last observation stands for it, and is never bootstrapped from.
    Else that row cannot be learned from and is left out, as D4RL's own loader does.

    Raises:
        UsageError: an array is missing, the shapes do not fit or no episode ever ends.
    """
    where = f"dataset {path}"
    with open_hdf5(path) as file:
        names = _ARRAYS + tuple(name for name in _OPTIONAL if name in file)
        arrays = {name: read_array(file, name, where) for name in names}
    for name in {"rewards", "terminals", "timeouts"} & set(names):
        arrays[name] = arrays[name].reshape(-1)  # some files keep columns of width 1
    check_rows(where, arrays)
    obs, action, reward, terminals = (arrays[name] for name in _ARRAYS)
    terminated = terminals.astype(bool)
    ends = terminated | arrays.get("timeouts", terminated).astype(bool)
    if not ends.any():
        raise UsageError(f"{where} has no ends of episodes: neither terminals nor timeouts is ever true")
    ends[-1] = True  # the file may stop within an episode, which is then truncated
    rows = np.arange(len(reward))
    if "next_observations" in arrays:
        following = arrays["next_observations"]
        if following.shape != obs.shape:
            raise UsageError(f"{where}: next_observations {following.shape}, but observations {obs.shape}")
        left_out = np.zeros_like(ends)
        successor = len(rows) + np.cumsum(ends) - 1
        obs = np.concatenate([obs, following[ends]])
    else:
        left_out = ends & ~terminated
        successor = np.where(terminated, rows, rows + 1)
        ends = terminated | np.append(left_out[1:], False)
    content = Rows(obs, successor, action, reward, terminated, ends, rows[~left_out])
    return content.to_dataset(str(path), {"format": "D4RL", "steps_left_out": int(left_out.sum())})
