"""Minari's layout: what we write Minari reads, what Minari writes we read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_datasets import SPECS, two_episodes

from robotrl.core.errors import UsageError
from robotrl.core.types import Specs
from robotrl.data.dataset import Dataset
from robotrl.data.loading import load_dataset

h5py = pytest.importorskip("h5py")

from robotrl.data.minari import METADATA_FILE, read_minari, write_minari  # noqa: E402  needs h5py


def flat(**changes: Any) -> Dataset:
    """The dataset with its group "policy" alone."""
    specs = Specs({"policy": SPECS.observation["policy"]}, SPECS.action, float("nan"))
    obs = {"policy": two_episodes().obs["policy"]}
    return two_episodes(specs=specs, obs=obs, success=None, **changes)


@pytest.fixture
def minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, its datasets below the test's own folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return pytest.importorskip("minari")


@pytest.mark.parametrize("make", [two_episodes, flat])
def test_what_is_written_is_read_back(make: Any, tmp_path: Path):
    written = make(provenance={"seed": 3, "policy": "random"})
    write_minari(written, tmp_path / "arm" / "random-v0")
    read = load_dataset(tmp_path / "arm" / "random-v0")
    for name in ("action", "reward", "terminated", "lengths"):
        assert torch.equal(getattr(read, name), getattr(written, name))
    assert read.obs.keys() == written.obs.keys()
    assert all(torch.equal(read.obs[group], written.obs[group]) for group in written.obs)
    assert (read.success is None) == (written.success is None)
    assert read.success is None or torch.equal(read.success, two_episodes().success)
    assert read.named and read.provenance == written.provenance
    assert read.specs.observation == written.specs.observation and read.specs.action == written.specs.action
    np.testing.assert_equal(read.specs.control_dt_s, written.specs.control_dt_s)


def test_nothing_is_replaced_or_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "arm" / "random-v0"
    write_minari(two_episodes(), folder)
    with pytest.raises(UsageError, match="random-v0 exists: choose another place"):
        write_minari(two_episodes(), folder)
    with pytest.raises(UsageError, match="named NAME-v0"):
        write_minari(two_episodes(), tmp_path / "random")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("robotrl.data.minari._metadata", full)
    with pytest.raises(OSError, match="No space"):
        write_minari(two_episodes(), folder.with_name("random-v1"))
    assert [path.name for path in folder.parent.iterdir()] == ["random-v0"]


@pytest.mark.parametrize("make", [two_episodes, flat])
def test_minari_reads_what_is_written(make: Any, tmp_path: Path, minari: Any):
    write_minari(make(), tmp_path / "arm" / "random-v0")
    assert list(minari.list_local_datasets()) == ["arm/random-v0"]
    theirs = minari.load_dataset("arm/random-v0")
    assert (theirs.total_episodes, theirs.total_steps) == (2, 5)
    first, second = theirs.iterate_episodes()
    one = first.observations if make is flat else first.observations["policy"]
    assert one.tolist() == [[0, 0], [1, -1], [2, -2], [3, -3]]
    row = one[0] if make is flat else {name: values[0] for name, values in first.observations.items()}
    assert theirs.observation_space.contains(row)
    assert second.actions.ravel().tolist() == pytest.approx([-0.4, -1.0])
    assert theirs.action_space == spaces.Box(-1.0, 1.0, (1,))
    assert first.terminations.tolist() == [False, False, True] and not first.truncations.any()
    assert second.truncations.tolist() == [False, True] and not second.terminations.any()
    assert second.rewards.tolist() == [8, 16]


def by_minari(minari: Any, observation_space: spaces.Space, observations: Any, **changes: Any) -> None:
    """Let Minari write one episode of three steps, with actions in [0, 4] and [-1, 1]."""
    from minari.data_collector import EpisodeBuffer

    values = {
        "observations": observations,
        "actions": np.array([[0.0, 1.0], [1.0, -1.0], [4.0, 0.5]], np.float32),
        "rewards": np.array([1.0, 2.0, 3.0]),
        "terminations": np.array([False, False, False]),
        "truncations": np.array([False, False, True]),
    } | changes
    minari.create_dataset_from_buffers(
        "theirs/arm-v0",
        [EpisodeBuffer(id=None, **values)],
        observation_space=observation_space,
        action_space=spaces.Box(np.array([0.0, -1.0], np.float32), np.array([4.0, 1.0], np.float32)),
        algorithm_name="nobody",
        author="nobody",
        author_email="nobody@example.org",
        code_permalink="none",
        description="none",
    )


def test_what_minari_writes_is_read(tmp_path: Path, minari: Any):
    obs = np.arange(12, dtype=np.float64).reshape(4, 3)
    by_minari(minari, spaces.Box(-np.inf, np.inf, (3,), np.float64), obs)
    dataset = load_dataset(tmp_path / "theirs" / "arm-v0")
    assert torch.equal(dataset.obs["policy"], torch.from_numpy(obs).float())
    assert dataset.action.tolist() == [[-1.0, 1.0], [-0.5, -1.0], [1.0, 0.5]]
    assert dataset.reward.tolist() == [1, 2, 3] and dataset.lengths.tolist() == [3]
    assert not dataset.terminated.any() and not dataset.named and dataset.success is None
    assert dataset.provenance["algorithm_name"] == "nobody"
    assert [term.low for term in dataset.specs.action] == [0.0, -1.0]


def test_dict_observations_stand_side_by_side_as_in_the_adapter(tmp_path: Path, minari: Any):
    from robotrl.envs.foreign.spaces import ObservationReader

    box = spaces.Box(-9, 9, (2,), np.float64)
    space = spaces.Dict(observation=box, goal=spaces.Dict(xy=spaces.Box(-9, 9, (1, 2))))
    obs = {"observation": np.ones((4, 2)), "goal": {"xy": np.full((4, 1, 2), 2.0, np.float32)}}
    by_minari(minari, space, obs)
    dataset = load_dataset(tmp_path / "theirs" / "arm-v0")
    reader = ObservationReader(space, "arm")
    assert torch.equal(dataset.obs["policy"], reader.batch(obs)["policy"])
    names, expected = dataset.specs.observation["policy"], reader.terms["policy"]
    assert [term.name for term in names] == [term.name for term in expected] == ["observation", "goal.xy"]


def test_episodes_without_an_end_and_pictures_are_refused(tmp_path: Path, minari: Any):
    box = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    by_minari(minari, box, np.zeros((4, 3)), truncations=np.zeros(3, bool))
    folder = tmp_path / "theirs" / "arm-v0"
    with pytest.raises(UsageError, match="episode_0 has no end: neither terminations nor truncations"):
        load_dataset(folder)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/terminations"][...] = [False, True, False]
    with pytest.raises(UsageError, match="episode_0 ends in step 1, but goes on to step 2"):
        load_dataset(folder)
    minari.delete_dataset("theirs/arm-v0")
    picture = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    by_minari(minari, picture, np.zeros((4, 8, 8, 3), np.uint8))
    with pytest.raises(UsageError, match="observes a picture"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / METADATA_FILE).unlink(), "no readable data/metadata.json"),
        (lambda f: (f / METADATA_FILE).write_text("{"), "metadata.json is damaged"),
        (lambda f: (f / "data/main_data.hdf5").write_bytes(b"\x89HDF"), "not a whole HDF5 file"),
        (lambda f: (f / "data/main_data.hdf5").unlink(), "main_data.hdf5 does not exist"),
        (lambda f: edit(f, lambda file: file.pop("episode_0")), "no episode_0 among its 1 episodes"),
        (
            lambda f: edit(f, lambda file: file["episode_1"].pop("rewards")),
            "episode_1 has no array 'rewards'",
        ),
        (
            lambda f: edit(f, lambda file: file["episode_1"].move("actions", "a")),
            "episode_1 has no array 'actions'",
        ),
        (lambda f: edit(f, lambda file: file.pop("episode_1")), "has 1 episodes in .* is 2 in"),
        (lambda f: edit(f, lambda file: file.create_group("episode_2")), "has 3 episodes in .* is 2 in"),
        (lambda f: change(f, total_steps=6), "has 5 steps in data/main_data.hdf5, but total_steps is 6 in"),
        (lambda f: replace(f, "episode_1", np.zeros(3)), "episode_1 is an array, expected a group of arrays"),
        (lambda f: replace(f, "episode_1/observations", np.zeros(3)), "no array 'observations/policy'"),
        (lambda f: replace(f, "episode_1/rewards", 1.0), "episode_1: rewards, .* of one length, at least 1"),
        (lambda f: [replace(f, f"episode_1/{name}", np.zeros(0)) for name in COLUMNS], "at least 1"),
        (lambda f: replace(f, "episode_1/rewards", np.ones(2, complex)), "holds complex128"),
        (
            lambda f: replace(f, "episode_1/truncations", np.array([math.nan, 1.0])),
            "truncations is nan in row 0",
        ),
        (lambda f: success(f, math.nan), "success is nan in row 0, expected 0 or 1"),
        (lambda f: success(f, "yes"), "array 'success' holds .*, expected real numbers"),
        (lambda f: change(f, robotrl={}), "metadata.json has no 'specs'"),
        (lambda f: change(f, robotrl={"specs": {"control_dt_s": 1, "observation": []}}), "json is damaged"),
        (lambda f: change(f, robotrl={"specs": {}}), "metadata.json has no 'control_dt_s'"),
        (lambda f: change(f, data_format="arrow"), "has the format 'arrow'"),
    ],
)
def test_damaged_datasets_are_one_line(damage: Any, message: str, tmp_path: Path):
    folder = tmp_path / "arm" / "random-v0"
    write_minari(two_episodes(), folder)
    damage(folder)
    with pytest.raises(UsageError, match=message):
        read_minari(folder)


def edit(folder: Path, how: Any) -> None:
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        how(file)


COLUMNS = ("actions", "rewards", "terminations", "truncations")


def replace(folder: Path, name: str, values: Any) -> None:
    def put(file: Any) -> None:
        del file[name]
        file[name] = values

    edit(folder, put)


def success(folder: Path, value: Any) -> None:
    edit(folder, lambda file: file["episode_1"].attrs.__setitem__("success", value))


def change(folder: Path, **keys: Any) -> None:
    metadata = json.loads((folder / METADATA_FILE).read_text())
    (folder / METADATA_FILE).write_text(json.dumps(metadata | keys))
