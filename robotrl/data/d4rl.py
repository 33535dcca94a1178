"""D4RL's HDF5 files (Fu et al. 2020, arXiv:2004.07219): arrays over all steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robotrl.core.errors import UsageError
from robotrl.data.dataset import Dataset
from robotrl.data.hdf5 import open_hdf5, read_array
from robotrl.data.rows import Rows, check_rows, truth_values

_ARRAYS = ("observations", "actions", "rewards", "terminals")
_OPTIONAL = ("timeouts", "next_observations")


def read_d4rl(path: Path) -> Dataset:
    """Read D4RL's arrays; `timeouts` or `next_observations` may be missing, but not both.

    Without `next_observations` nobody knows what came after the last row of an episode. If the episode was
    terminated that does not matter: its last observation stands for it, and is never bootstrapped from.
    Else that row cannot be learned from and is left out, as D4RL's own loader does.

    With them, a row that leads to something else than the next row's observation was the last one of its
    episode, whether a flag says so or not: the episode was truncated there, as IQL's loader has it (Kostrikov
    et al. 2021, arXiv:2110.06169). How many ends were found so is in the provenance as `unmarked_ends`.

    Raises:
        UsageError: an array is missing, the shapes do not fit, a flag is neither 0 nor 1, or no episode
            ever ends.
    """
    where = f"dataset {path}"
    with open_hdf5(path) as file:
        names = _ARRAYS + tuple(name for name in _OPTIONAL if name in file)
        arrays = {name: read_array(file, name, where) for name in names}
    for name in {"rewards", "terminals", "timeouts"} & set(names):
        arrays[name] = arrays[name].reshape(-1)  # some files keep columns of width 1
    check_rows(where, arrays)
    obs, action, reward, terminals = (arrays[name] for name in _ARRAYS)
    if not set(_OPTIONAL) & set(names):
        raise UsageError(
            f"{where} has neither timeouts nor next_observations, so that nobody can tell where a time limit "
            "ended an episode: add timeouts, all 0 if there was none"
        )
    terminated = truth_values(terminals, "terminals", where)
    marked = terminated | truth_values(arrays.get("timeouts", terminated), "timeouts", where)
    ends = marked | _breaks(where, obs, arrays.get("next_observations"))
    unmarked = int((ends & ~marked).sum())
    if not ends.any():
        raise UsageError(f"{where} has no ends of episodes: neither terminals nor timeouts is ever true")
    ends[-1] = True  # the file may stop within an episode, which is then truncated
    rows = np.arange(len(reward))
    if "next_observations" in arrays:
        left_out = np.zeros_like(ends)
        successor = len(rows) + np.cumsum(ends) - 1
        obs = np.concatenate([obs, arrays["next_observations"][ends]])
    else:
        left_out = ends & ~terminated
        successor = np.where(terminated, rows, rows + 1)
        ends = terminated | np.append(left_out[1:], False)
    content = Rows(obs, successor, action, reward, terminated, ends, rows[~left_out])
    counts = {"steps_left_out": int(left_out.sum()), "unmarked_ends": unmarked}
    return content.to_dataset(str(path), {"format": "D4RL", **counts})


def _breaks(where: str, obs: np.ndarray, following: np.ndarray | None) -> np.ndarray:
    """(M,) bool, the rows but the last that do not lead to the next row."""
    breaks = np.zeros(len(obs), dtype=bool)
    if following is None:
        return breaks
    if following.shape != obs.shape:
        raise UsageError(f"{where}: next_observations {following.shape}, but observations {obs.shape}")
    # rounding, as of observations that one of the two arrays holds in float32
    same = np.isclose(following[:-1], obs[1:], rtol=1e-6, atol=1e-6)
    breaks[:-1] = ~same.all(axis=tuple(range(1, obs.ndim)))
    return breaks
