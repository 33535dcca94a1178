"""Datasets of other types than expected, damaged files, and paths that somebody mistook: one line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_datasets import d4rl, flags, rows, two_episodes

from robotrl.core.errors import UsageError
from robotrl.data.loading import load_dataset

h5py = pytest.importorskip("h5py")

from robotrl.data.hdf5 import open_hdf5  # noqa: E402  needs h5py
from robotrl.data.minari import MAIN_FILE, write_minari  # noqa: E402  needs h5py


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"terminated": torch.tensor([0, 0, 1, 0, 0])},
            "terminated is of torch.int64, expected .* torch.bool",
        ),
        ({"terminated": torch.zeros(5)}, "terminated is of torch.float32"),
        (
            {"action": torch.zeros(5, 1, dtype=torch.int64)},
            "action is of torch.int64, expected .* torch.float32",
        ),
        ({"reward": torch.zeros(5, dtype=torch.float64)}, "reward is of torch.float64"),
        ({"reward": np.zeros(5, np.float32)}, "reward is of ndarray, expected a tensor of torch.float32"),
        ({"lengths": torch.tensor([3.0, 2.0])}, "lengths is of torch.float32, expected .* torch.int64"),
        ({"lengths": torch.tensor([[3, 2]])}, r"lengths has the shape \(1, 2\), expected \(2,\)"),
        ({"success": torch.ones(2)}, "success is of torch.float32, expected .* torch.bool"),
        (
            {"obs": {"policy": np.zeros((7, 2)), "privileged": torch.zeros(7, 1)}},
            "observation group 'policy' is of ndarray",
        ),
        (
            {"lengths": torch.tensor([5, 0])},
            ".* 5 rewards: expected an episode or more, a step or more in each",
        ),
    ],
)
def test_tensors_of_other_types_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=f"dataset by hand: {message}"):
        two_episodes(**changes)


def d4rl_file(folder: Path) -> tuple[Path, Path]:
    path = d4rl(folder / "a.hdf5", rows(6, terminals=flags(6, 2), timeouts=flags(6, 3)))
    return path, path


def minari_folder(folder: Path) -> tuple[Path, Path]:
    write_minari(two_episodes(), folder / "arm-v0")
    return folder / "arm-v0", folder / "arm-v0" / MAIN_FILE


def npz_file(folder: Path) -> tuple[Path, Path]:
    path = folder / "a.npz"
    np.savez_compressed(path, **rows(60, terminals=flags(60, 9, 59)))
    return path, path


@pytest.mark.parametrize("make", [d4rl_file, minari_folder, npz_file])
def test_flipped_bits_are_one_line_wherever_they_are(
    make: Callable[[Path], tuple[Path, Path]], tmp_path: Path
):
    dataset, file = make(tmp_path)
    whole = file.read_bytes()
    refused = 0
    for at in np.random.default_rng(0).integers(8 * len(whole), size=300).tolist():
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        file.write_bytes(flipped)
        try:
            load_dataset(dataset)
        except UsageError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("make", [d4rl_file, minari_folder])
def test_a_damaged_heap_of_names_is_told(make: Callable[[Path], tuple[Path, Path]], tmp_path: Path):
    dataset, file = make(tmp_path)
    file.write_bytes(file.read_bytes().replace(b"HEAP", b"HEAQ"))
    with pytest.raises(UsageError, match=r"not a whole HDF5 file: .*bad local heap signature"):
        load_dataset(dataset)


def test_a_damaged_episode_is_told(tmp_path: Path):
    folder, path = minari_folder(tmp_path)
    with h5py.File(path) as file:
        at = h5py.h5o.get_info(file["episode_1"].id).addr
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 0xFF  # the version of its header
    path.write_bytes(damaged)
    with pytest.raises(UsageError, match=r"not a whole HDF5 file: .*bad object header version"):
        load_dataset(folder)


@pytest.mark.parametrize("error", [KeyError, RuntimeError, ValueError, UsageError])
def test_what_is_raised_beside_the_file_stays_what_it_is(error: type[Exception], tmp_path: Path):
    with pytest.raises(error, match=r"^'?of our own'?$"), open_hdf5(d4rl_file(tmp_path)[0]):
        raise error("of our own")


def npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "No data left in file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "not a zip file"),
        (npy, r"it is a single array \(.npy\)"),
    ],
)
def test_what_is_no_whole_npz_is_told(damage: Callable[[Path], Any], message: str, tmp_path: Path):
    path, _ = npz_file(tmp_path)
    damage(path)
    with pytest.raises(UsageError, match=f"is not a whole npz file of numbers: .*{message}"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"x": np.zeros(4)}, "'observations' is a group, expected an array"),
        (h5py.SoftLink("/nowhere"), "'observations' leads to nothing: a link without its target, or damaged"),
        (np.dtype("f4"), "'observations' is a datatype, expected an array"),
        (
            np.zeros((4, 0)),
            r"observations \(4, 0\) and actions \(4, 1\) must be rows of numbers, at least one",
        ),
    ],
)
def test_observations_that_are_no_array_of_numbers_are_told(values: Any, message: str, tmp_path: Path):
    path = d4rl(tmp_path / "a.hdf5", rows(4, observations=None, timeouts=flags(4, 3)))
    with h5py.File(path, "a") as file:
        for name, value in values.items() if isinstance(values, dict) else [("", values)]:
            file[f"observations/{name}".rstrip("/")] = value
    with pytest.raises(UsageError, match=message):
        load_dataset(path)


def test_files_in_which_no_episode_has_a_step_are_told(tmp_path: Path):
    always = np.ones(4, dtype=bool)
    np.savez(tmp_path / "a.npz", **rows(4, terminals=always))
    d4rl(tmp_path / "a.hdf5", rows(4, timeouts=always))
    for name in ("a.npz", "a.hdf5"):
        with pytest.raises(UsageError, match=f"{name}: no episode has a step, as every row ends one"):
            load_dataset(tmp_path / name)


def test_paths_that_somebody_mistook_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, inside = minari_folder(tmp_path)
    with pytest.raises(UsageError, match=f"is the inside of a Minari dataset: give {folder}$"):
        load_dataset(inside)
    monkeypatch.chdir(inside.parent)
    with pytest.raises(UsageError, match=f"is the inside of a Minari dataset: give {folder}$"):
        load_dataset(inside.name)
    with pytest.raises(UsageError, match=r"random-v0 does not exist: .*main_data.hdf5 is a file, no folder"):
        load_dataset(inside / "random-v0")
    (tmp_path / "b.hdf5").mkdir()
    with pytest.raises(UsageError, match=r"b.hdf5 is a folder, expected an HDF5 file"):
        load_dataset(tmp_path / "b.hdf5")
    inside.unlink()
    inside.mkdir()
    with pytest.raises(UsageError, match=r"main_data.hdf5 is a folder, expected an HDF5 file"):
        load_dataset(folder)
