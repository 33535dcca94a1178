"""Minari's layout on disk (minari.farama.org, format "hdf5"), read and written with h5py and JSON alone.

    NAMESPACE/NAME-v0/data/main_data.hdf5    a group per episode: observations (T + 1, ...), actions,
                                             rewards, terminations, truncations (T, ...)
    NAMESPACE/NAME-v0/data/metadata.json     spaces, counts, where it comes from

What is written here loads in Minari: `MINARI_DATASETS_PATH` is the folder that holds NAMESPACE. Actions are
then the learner's, in [-1, 1]; the key "robotrl" of the metadata has the physical units and everything
else that Minari has no place for.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.files import new_folder
from robotrl.core.types import ActionTerm, ObsTerm, Specs
from robotrl.data.dataset import Dataset, scaled_actions
from robotrl.data.hdf5 import open_hdf5, read_array, write_hdf5
from robotrl.data.rows import check_numbers, double_tensor, float_tensor, truth_values
from robotrl.data.specs_json import specs_from_json, specs_to_json

MAIN_FILE, METADATA_FILE = Path("data/main_data.hdf5"), Path("data/metadata.json")
_NAME = re.compile(r"[-\w]+-v\d+")
_NAMESPACE = re.compile(r"[-\w]+")
# of the layout, not of an installed package
_MINARI_VERSION = "0.5.4"
_KEY = "robotrl"


class TakenError(UsageError):
    """Something is already where a dataset was to be made."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} exists: choose another place, such as the next number after -v")


def check_new(folder: Path) -> None:
    """Check that a dataset can be written to a folder.

    Raises:
        TakenError: something is there.
        UsageError: Minari could not be told its name.
    """
    if folder.exists():
        raise TakenError(folder)
    if not _NAME.fullmatch(folder.name):
        raise UsageError(
            f"a dataset's folder is named NAME-v0, -v1, ... (letters, digits, - and _), got {folder.name!r}"
        )


def write_minari(dataset: Dataset, folder: Path) -> None:
    """Write a dataset, whole or not at all; nothing is replaced.

    Args:
        dataset: what to write.
        folder: NAMESPACE/NAME-v0, to be made.

    Raises:
        TakenError, UsageError: see `check_new`; the first also where somebody else took the name meanwhile.
    """
    check_new(folder)
    try:
        with new_folder(folder) as aside:
            (aside / MAIN_FILE).parent.mkdir()
            write_hdf5(aside / MAIN_FILE, lambda file: _write_episodes(dataset, file))
            size_mb = (aside / MAIN_FILE).stat().st_size / 1e6
            text = json.dumps(_metadata(dataset, folder, size_mb), indent=2, allow_nan=False)
            (aside / METADATA_FILE).write_text(text + "\n", encoding="utf-8")
    except FileExistsError as error:
        raise TakenError(folder) from error


def read_minari(folder: Path) -> Dataset:
    """Read a dataset, written here or by Minari.

    A dataset of others becomes the group "policy", its Boxes side by side as `task=gymnasium:ID` has them;
    their actions are scaled from the bounds of the action space onto [-1, 1].

    Raises:
        UsageError: a file is missing or damaged, the data are not whole episodes of numbers, or there are
            more or fewer of them than the metadata count.
    """
    metadata = _read_metadata(folder)
    layout = _layout(metadata, folder)
    with open_hdf5(folder / MAIN_FILE) as file:
        names = [f"episode_{i}" for i in range(len(file))]
        missing = next((name for name in names if name not in file), None)
        if missing or not names:
            raise UsageError(
                f"dataset {folder} has no {missing or 'episode_0'} among its {len(file)} episodes"
            )
        _check_count(metadata, "total_episodes", len(names), folder)
        episodes = [_read_episode(file[name], layout, f"dataset {folder}, {name}") for name in names]
    _check_count(metadata, "total_steps", sum(len(episode.reward) for episode in episodes), folder)
    successes = [episode.success for episode in episodes]
    terms = layout.specs.action
    action = torch.cat([episode.action for episode in episodes])
    return Dataset(
        str(folder),
        layout.specs,
        {group: torch.cat([episode.obs[group] for episode in episodes]) for group in layout.paths},
        action.float() if layout.named else scaled_actions(action, terms),
        torch.cat([episode.reward for episode in episodes]),
        torch.cat([episode.terminated for episode in episodes]),
        torch.tensor([len(episode.reward) for episode in episodes]),
        None if None in successes else torch.tensor(successes, dtype=torch.bool),
        layout.named,
        layout.provenance,
    )


@dataclass(frozen=True)
class _Layout:
    """What an episode consists of: `paths` are group -> arrays inside an episode, side by side."""

    specs: Specs
    paths: dict[str, list[str]]
    named: bool
    provenance: dict[str, Any]


@dataclass(frozen=True)
class _Episode:
    obs: dict[str, Tensor]
    action: Tensor
    reward: Tensor
    terminated: Tensor
    success: bool | None


def _write_episodes(dataset: Dataset, file: Any) -> None:
    flat = _is_flat(dataset.specs)
    obs = {group: values.numpy() for group, values in dataset.obs.items()}
    terminated = dataset.terminated.numpy()
    truncated = np.zeros_like(terminated)
    truncated[dataset.ends] = ~terminated[dataset.ends]
    columns = {
        "actions": dataset.action.numpy(),
        "rewards": dataset.reward.numpy(),
        "terminations": terminated,
        "truncations": truncated,
    }
    for i, (start, length) in enumerate(zip(dataset.starts.tolist(), dataset.lengths.tolist(), strict=True)):
        group = file.create_group(f"episode_{i}")
        group.attrs["id"], group.attrs["total_steps"] = i, length
        if dataset.success is not None:
            group.attrs["success"] = bool(dataset.success[i])
        for name, values in columns.items():
            group.create_dataset(name, data=values[start : start + length])
        for name, values in obs.items():
            path = "observations" if flat else f"observations/{name}"
            group.create_dataset(path, data=values[start + i : start + i + length + 1])
        group.create_group("infos")


def _is_flat(specs: Specs) -> bool:
    return list(specs.observation) == ["policy"]


def _metadata(dataset: Dataset, folder: Path, size_mb: float) -> dict[str, Any]:
    specs = dataset.specs
    boxes = {group: _box(specs.obs_dim(group), -math.inf, math.inf) for group in specs.observation}
    space = boxes["policy"] if _is_flat(specs) else {"type": "Dict", "subspaces": boxes}
    namespace = folder.resolve().parent.name
    return {
        "dataset_id": f"{namespace}/{folder.name}" if _NAMESPACE.fullmatch(namespace) else folder.name,
        "minari_version": _MINARI_VERSION,
        "data_format": "hdf5",
        "total_episodes": dataset.num_episodes,
        "total_steps": dataset.num_steps,
        "dataset_size": round(size_mb, 1),
        # strings, in which Minari writes and expects Python's -Infinity
        "observation_space": json.dumps(space),
        "action_space": json.dumps(_box(specs.action_dim, -1.0, 1.0)),
        "algorithm_name": str(dataset.provenance.get("policy", "")),
        "description": "Recorded by robotrl; actions are in [-1, 1], see robotrl.specs for their units.",
        _KEY: {
            "specs": specs_to_json(specs),
            "provenance": dict(dataset.provenance),
            "summary": dataset.summary(),
        },
    }


def _box(size: int, low: float, high: float) -> dict[str, Any]:
    return {"type": "Box", "dtype": "float32", "shape": [size], "low": [low] * size, "high": [high] * size}


def _read_metadata(folder: Path) -> dict[str, Any]:
    path = folder / METADATA_FILE
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(metadata, dict):
            raise ValueError("no JSON object")
    except OSError as error:
        raise UsageError(f"dataset {folder} has no readable {METADATA_FILE}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    if metadata.get("data_format", "hdf5") != "hdf5":
        raise UsageError(
            f"dataset {folder} has the format {metadata['data_format']!r}: only Minari's hdf5 is read"
        )
    return metadata


def _check_count(metadata: dict[str, Any], name: str, found: int, folder: Path) -> None:
    """Check that nothing was cut off after the metadata were written."""
    if metadata.get(name) != found:
        raise UsageError(
            f"dataset {folder} has {found} {name.removeprefix('total_')} in {MAIN_FILE}, but {name} is "
            f"{metadata.get(name)} in {METADATA_FILE}: a part is missing, or the two are not of one dataset"
        )


def _layout(metadata: dict[str, Any], folder: Path) -> _Layout:
    path = folder / METADATA_FILE
    try:
        if _KEY in metadata:
            specs = specs_from_json(metadata[_KEY]["specs"])
            flat = _is_flat(specs)
            paths = {
                group: ["observations" if flat else f"observations/{group}"] for group in specs.observation
            }
            return _Layout(specs, paths, True, dict(metadata[_KEY]["provenance"]))
        leaves = _boxes(json.loads(metadata["observation_space"]), (), path)
        if not leaves:
            raise ValueError("its observation_space holds nothing")
        terms = tuple(ObsTerm(".".join(keys) or "observation", size, "1") for keys, size in leaves)
        paths = {"policy": ["/".join(("observations", *keys)) for keys, _ in leaves]}
        action = _action_terms(json.loads(metadata["action_space"]), path)
        specs = Specs({"policy": terms}, action, math.nan)
        return _Layout(specs, paths, False, _foreign_provenance(metadata))
    except KeyError as error:
        raise UsageError(f"{path} has no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged: {error}") from error


def _boxes(space: dict[str, Any], keys: tuple[str, ...], path: Path) -> list[tuple[tuple[str, ...], int]]:
    """Return the keys that lead to every Box of a space, and its size."""
    if space["type"] == "Dict":
        return [
            found for key, inner in space["subspaces"].items() for found in _boxes(inner, (*keys, key), path)
        ]
    if space["type"] != "Box" or (len(space["shape"]) == 3 and space["dtype"] == "uint8"):
        where = f" at {'.'.join(keys)!r}" if keys else ""
        kind = "a picture" if space["type"] == "Box" else space["type"]
        raise UsageError(
            f"{path} observes {kind}{where}: only Boxes of numbers, and Dicts of them, can be used"
        )
    return [(keys, math.prod(space["shape"]))]


def _action_terms(space: dict[str, Any], path: Path) -> tuple[ActionTerm, ...]:
    if space["type"] != "Box" or "float" not in space["dtype"]:
        raise UsageError(f"{path} has {space['type']} actions: only continuous ones, a Box, can be used")
    bounds = zip(np.ravel(space["low"]).tolist(), np.ravel(space["high"]).tolist(), strict=True)
    return tuple(ActionTerm(f"action_{i}", "1", low, high) for i, (low, high) in enumerate(bounds))


def _read_episode(group: Any, layout: _Layout, where: str) -> _Episode:
    reward, *ends = (read_array(group, name, where) for name in ("rewards", "terminations", "truncations"))
    if reward.ndim != 1 or not len(reward) or any(flags.shape != reward.shape for flags in ends):
        raise UsageError(f"{where}: rewards, terminations and truncations must be of one length, at least 1")
    steps = len(reward)
    terminated, truncated = (
        truth_values(flags, name, where)
        for flags, name in zip(ends, ("terminations", "truncations"), strict=True)
    )
    action = _columns(read_array(group, "actions", where), steps, "actions", where)
    obs = {}
    for name, paths in layout.paths.items():
        columns = [_columns(read_array(group, path, where), steps + 1, path, where) for path in paths]
        obs[name] = float_tensor(np.concatenate(columns, axis=1))
    over = np.flatnonzero(terminated | truncated)
    if not len(over):
        raise UsageError(f"{where} has no end: neither terminations nor truncations is true in its last step")
    if over[0] != steps - 1:
        raise UsageError(f"{where} ends in step {over[0]}, but goes on to step {steps - 1}: cut it there")
    return _Episode(
        obs,
        double_tensor(action),
        float_tensor(reward),
        torch.from_numpy(terminated),
        _success(group.attrs.get("success"), where),
    )


def _success(found: Any, where: str) -> bool | None:
    if found is None:
        return None
    return bool(truth_values(check_numbers(np.asarray(found)[None], "success", where), "success", where)[0])


def _columns(values: np.ndarray, length: int, name: str, where: str) -> np.ndarray:
    """Return (length, D) of (length, ...)."""
    if values.ndim < 1 or len(values) != length:
        raise UsageError(f"{where}: {name} has the shape {values.shape}, expected ({length}, ...)")
    return values.reshape(length, -1)


def _foreign_provenance(metadata: dict[str, Any]) -> dict[str, Any]:
    kept = ("dataset_id", "algorithm_name", "author", "code_permalink", "env_spec")
    return {"format": "Minari", **{name: metadata[name] for name in kept if name in metadata}}
