"""Datasets by hand: what is refused, returns, replay; D4RL's and OGBench's files row by row."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robotrl.core.errors import UsageError
from robotrl.core.types import ActionTerm, ObsTerm, Specs
from robotrl.data.dataset import Dataset
from robotrl.data.loading import load_dataset
from robotrl.data.ogbench import read_ogbench

SPECS = Specs(
    {
        "policy": (ObsTerm("angle", 1, "rad"), ObsTerm("rate", 1, "rad/s")),
        "privileged": (ObsTerm("m", 1, "kg"),),
    },
    (ActionTerm("motor", "N m", -2.0, 2.0),),
    control_dt_s=0.02,
)


def two_episodes(**changes: Any) -> Dataset:
    """Three steps that end truly, two that run out of time; observation 10 e + t of episode e, step t."""
    place = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0])
    values = {
        "origin": "by hand",
        "specs": SPECS,
        "obs": {"policy": torch.stack([place, -place], 1), "privileged": place[:, None] / 2},
        "action": torch.tensor([[0.1], [0.2], [0.3], [-0.4], [-1.0]]),
        "reward": torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]),
        "terminated": torch.tensor([False, False, True, False, False]),
        "lengths": torch.tensor([3, 2]),
        "success": torch.tensor([True, False]),
        "named": True,
    }
    return Dataset(**(values | changes))


def test_returns_and_summary_by_hand():
    dataset = two_episodes()
    assert dataset.monte_carlo_returns(0.5).tolist() == [1 + 1 + 1, 2 + 2, 4, 8 + 8, 16]
    summary = dataset.summary()
    assert summary["episodes"] == 2 and summary["steps"] == 5
    assert summary["return"] == {"mean": 15.5, "std": 8.5, "min": 7.0, "max": 24.0}
    assert summary["length"] == {"mean": 2.5, "std": 0.5, "min": 2.0, "max": 3.0}
    assert summary["terminated"] == 0.5 and summary["success"] == 0.5
    assert summary["action_at_limit"] == pytest.approx(0.2)
    assert summary["observation"] == {"policy": 2, "privileged": 1} and summary["action"] == 1


def test_returns_of_many_episodes_equal_a_loop():
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (30,), generator=g)
    steps = int(lengths.sum())
    dataset = Dataset(
        "random",
        SPECS,
        {"policy": torch.zeros(steps + 30, 2), "privileged": torch.zeros(steps + 30, 1)},
        torch.zeros(steps, 1),
        torch.randn(steps, generator=g),
        torch.zeros(steps, dtype=torch.bool),
        lengths,
    )
    expected = []
    for start, length in zip(dataset.starts.tolist(), lengths.tolist(), strict=True):
        rewards = dataset.reward[start : start + length].double().tolist()
        expected += [sum(0.9**i * r for i, r in enumerate(rewards[t:])) for t in range(length)]
    torch.testing.assert_close(dataset.monte_carlo_returns(0.9), torch.tensor(expected, dtype=torch.float64))


def test_its_replay_has_the_true_successors_and_windows_stop_at_episodes():
    replay = two_episodes().to_replay(["policy"])
    assert replay.size == 5
    batch = replay.sample(400, torch.Generator().manual_seed(0), horizon=3, gamma=0.5)
    assert set(batch.obs) == {"policy"}
    expected = {  # reward, discount, successor, steps
        0.0: (1 + 1 + 1, 0.0, 3.0, 3),
        1.0: (2 + 2, 0.0, 3.0, 2),
        2.0: (4, 0.0, 3.0, 1),
        10.0: (8 + 8, 0.25, 12.0, 2),
        11.0: (16, 0.5, 12.0, 1),
    }
    rows = zip(
        batch.obs["policy"][:, 0].tolist(),
        batch.reward.tolist(),
        batch.discount.tolist(),
        batch.next_obs["policy"][:, 0].tolist(),
        batch.mask.sum(1).tolist(),
        strict=True,
    )
    seen = {place: (reward, discount, after, steps) for place, reward, discount, after, steps in rows}
    assert seen == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": torch.zeros(4)}, "2 episodes of together 5 steps, 4 rewards"),
        ({"lengths": torch.tensor([5, 0])}, "2 episodes of together 5 steps, 5 rewards"),
        ({"action": torch.zeros(5, 2)}, r"action has the shape \(5, 2\), expected \(5, 1\)"),
        ({"success": torch.zeros(3, dtype=torch.bool)}, r"success has the shape \(3,\), expected \(2,\)"),
        (
            {"reward": torch.tensor([1.0, 2.0, 4.0, 8.0, math.nan])},
            "reward of episode 1, step 1 is NaN or infinite",
        ),
        (
            {"action": torch.tensor([[0.1], [0.2], [1.5], [0.0], [0.0]])},
            r"action 0 of episode 0, step 2 is 3, beyond its bounds \[-2, 2\]",
        ),
        (
            {"terminated": torch.tensor([False, True, True, False, False])},
            "episode 0, step 1 is a true end state, but its episode goes on",
        ),
    ],
)
def test_unsound_data_are_refused_in_one_line(changes: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=f"dataset by hand: {message}"):
        two_episodes(**changes)


def test_a_number_that_is_not_finite_in_an_observation_is_found():
    obs = two_episodes().obs
    obs["privileged"][5] = math.inf  # the middle of the second episode
    with pytest.raises(UsageError, match="group 'privileged' of episode 1, step 1 is NaN or infinite"):
        two_episodes(obs=obs)


def changed(group: str = "policy", **changes: Any) -> Specs:
    terms = dict(SPECS.observation)
    terms[group] = (dataclasses.replace(terms[group][0], **changes), *terms[group][1:])
    return dataclasses.replace(SPECS, observation=terms)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (changed(size=2), "group 'policy' has 2 numbers, the task's 3"),
        (changed(name="hip"), r"has 'angle' \(1, rad\) where the task has 'hip' \(1, rad\)"),
        (changed(unit="1"), r"has 'angle' \(1, rad\) where the task has 'angle' \(1, 1\)"),
        (dataclasses.replace(SPECS, control_dt_s=0.01), "recorded every 0.02 s, the task acts every 0.01 s"),
        (dataclasses.replace(SPECS, action=SPECS.action * 2), "has 1 actions, the task 2"),
        (
            dataclasses.replace(SPECS, action=(ActionTerm("motor", "N m", -2.0, 3.0),)),
            r"action 'motor' in \[-2, 2\] N m where the task has 'motor' in \[-2, 3\] N m",
        ),
        (
            dataclasses.replace(SPECS, action=(ActionTerm("motor", "rad", -2.0, 2.0),)),
            r"action 'motor' in \[-2, 2\] N m where the task has 'motor' in \[-2, 2\] rad",
        ),
    ],
)
def test_another_tasks_specs_do_not_fit(specs: Specs, message: str):
    two_episodes().check_fits(SPECS, ["policy", "privileged"])
    with pytest.raises(UsageError, match=message):
        two_episodes().check_fits(specs, ["policy"])


def test_only_what_is_learned_from_must_fit_and_placeholders_have_no_names():
    two_episodes().check_fits(changed("privileged", name="other"), ["policy"])
    two_episodes(named=False).check_fits(changed(name="hip"), ["policy"])
    assert set(two_episodes().to_replay().sample(1, torch.Generator()).obs) == {"policy", "privileged"}
    one = dataclasses.replace(SPECS, observation={"policy": SPECS.observation["policy"]})
    alone = two_episodes(specs=one, obs={"policy": two_episodes().obs["policy"]})
    with pytest.raises(UsageError, match="has the observation groups policy, not 'privileged'"):
        alone.check_fits(SPECS, ["policy", "privileged"])


def rows(n: int, **changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """A flat file of n rows: observation i, reward i."""
    place = np.arange(n, dtype=np.float64)
    values = {
        "observations": np.stack([place, place + 0.25], 1),
        "actions": np.full((n, 1), 0.5),
        "rewards": place,
        "terminals": np.zeros(n),
    } | changes
    return {name: value for name, value in values.items() if value is not None}


def flags(n: int, *where: int) -> np.ndarray:
    values = np.zeros(n, dtype=bool)
    values[list(where)] = True
    return values


def d4rl(path: Path, arrays: dict[str, Any]) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def test_d4rl_keeps_every_step_where_the_successors_are_there(tmp_path: Path):
    arrays = rows(6, terminals=flags(6, 2), timeouts=flags(6, 3))
    following = np.where(flags(6, 2, 3, 5)[:, None], 100.0, 1.0) + arrays["observations"]
    dataset = load_dataset(d4rl(tmp_path / "a.hdf5", arrays | {"next_observations": following}))
    assert dataset.lengths.tolist() == [3, 1, 2]
    assert dataset.terminated.tolist() == [False, False, True, False, False, False]
    assert dataset.obs["policy"][:, 0].tolist() == [0, 1, 2, 102, 3, 103, 4, 5, 105]
    assert dataset.reward.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("timeouts", [None, flags(60)])
def test_d4rl_ends_that_no_flag_marks_are_truncations(tmp_path: Path, timeouts: np.ndarray | None):
    arrays = rows(60, terminals=flags(60, 59), timeouts=timeouts)
    following = arrays["observations"] + np.where(flags(60, 19, 39)[:, None], 500.0, 1.0)
    following[0] += 1e-6  # as after a detour over float32
    dataset = load_dataset(d4rl(tmp_path / "a.hdf5", arrays | {"next_observations": following}))
    assert dataset.lengths.tolist() == [20, 20, 20] and dataset.provenance["unmarked_ends"] == 2
    assert dataset.terminated.nonzero().tolist() == [[59]]
    assert dataset.obs["policy"][[19, 20, 21, 41, 42], 0].tolist() == [19, 519, 20, 539, 40]
    assert dataset.monte_carlo_returns(1.0)[0] == sum(range(20))


def test_d4rl_leaves_out_the_rows_whose_successor_nobody_knows(tmp_path: Path):
    # episodes: 0 1 2 (ends), 3 4 (time), 5 (time: no step is left), 6 (ends), 7 8 9 (the file stops)
    arrays = rows(10, terminals=flags(10, 2, 6)[:, None], timeouts=flags(10, 4, 5))
    dataset = load_dataset(d4rl(tmp_path / "a.hdf5", arrays))
    assert dataset.lengths.tolist() == [3, 1, 1, 2]
    assert dataset.reward.tolist() == [0, 1, 2, 3, 6, 7, 8]
    assert dataset.terminated.tolist() == [False, False, True, False, True, False, False]
    assert dataset.obs["policy"][:, 0].tolist() == [0, 1, 2, 2, 3, 4, 6, 6, 7, 8, 9]
    assert dataset.provenance["steps_left_out"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timeouts": flags(4)}, "has no ends of episodes"),
        ({"timeouts": None, "terminals": flags(4, 3)}, "has neither timeouts nor next_observations"),
        ({"terminals": np.array([0, 0, 0, math.nan])}, "terminals is nan in row 3, expected 0 or 1"),
        ({"timeouts": np.array([0, 2, 0, 1])}, "timeouts is 2 in row 1, expected 0 or 1"),
        ({"rewards": np.full(4, 1j)}, "array 'rewards' holds complex128, expected real numbers"),
        ({"rewards": None, "reward": np.zeros(4)}, r"no array 'rewards' \(did you mean 'reward'\?\)"),
        ({"actions": np.zeros((3, 1))}, r"actions has the shape \(3, 1\), there are 4 rewards"),
        ({"observations": np.zeros((4, 2, 2)), "terminals": flags(4, 3)}, "must be rows of numbers"),
        ({"actions": np.full((4, 1), 1.1), "terminals": flags(4, 3)}, r"is 1.1, beyond its bounds \[-1, 1\]"),
        ({"rewards": np.array([b"a"] * 4)}, "array 'rewards' holds"),
        (
            {"next_observations": np.zeros((4, 3)), "terminals": flags(4, 3)},
            r"next_observations \(4, 3\), but observations \(4, 2\)",
        ),
    ],
)
def test_d4rl_files_that_are_not_whole_are_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        load_dataset(d4rl(tmp_path / "a.hdf5", rows(4, **({"timeouts": flags(4, 3)} | changes))))


def test_numbers_in_another_byte_order_are_read(tmp_path: Path):
    arrays = rows(3, terminals=flags(3, 2), timeouts=flags(3))
    swapped = {name: values.astype(values.dtype.newbyteorder(">")) for name, values in arrays.items()}
    dataset = load_dataset(d4rl(tmp_path / "a.hdf5", swapped))
    assert dataset.reward.tolist() == [0, 1, 2] and dataset.action.tolist() == [[0.5]] * 3


def test_ogbench_rows_that_only_hold_an_observation_are_no_steps(tmp_path: Path):
    path = tmp_path / "a.npz"
    np.savez(path, **rows(8, terminals=flags(8, 3, 4, 7), masks=~flags(8, 1, 2, 7)))
    dataset = load_dataset(path)
    # 0 1 | 2 | then 3 is what came after; 4 alone is no episode; 5 6 and 7 after it
    assert dataset.lengths.tolist() == [2, 1, 2]
    assert dataset.obs["policy"][:, 0].tolist() == [0, 1, 2, 2, 3, 5, 6, 7]
    assert dataset.terminated.tolist() == [False, True, True, False, False]
    assert dataset.reward.tolist() == [0, 1, 2, 5, 6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminals": flags(4, 2)}, "no end of its last episode"),
        ({"rewards": None}, "no array 'rewards': relabel it"),
        ({"masks": np.ones(3)}, r"masks has the shape \(3,\), there are 4 rewards"),
        ({"rewards": np.array(["a"] * 4)}, "array 'rewards' holds <U1, expected real numbers"),
        ({"terminals": np.array([0, math.nan, 0, 1])}, "terminals is nan in row 1, expected 0 or 1"),
        ({"terminals": flags(4, 3), "masks": np.full(4, math.nan)}, "masks is nan in row 0"),
        ({"terminals": flags(4, 3)[:, None]}, r"terminals has the shape \(4, 1\), expected one number a row"),
    ],
)
def test_ogbench_files_that_are_not_whole_are_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    np.savez(tmp_path / "a.npz", **rows(4, **changes))
    with pytest.raises(UsageError, match=message):
        read_ogbench(tmp_path / "a.npz")


def test_what_is_no_dataset_is_told(tmp_path: Path):
    with pytest.raises(UsageError, match=r"nowhere.hdf5 does not exist"):
        load_dataset(tmp_path / "nowhere.hdf5")
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(UsageError, match=r"a.csv is no dataset that is known: expected a Minari folder"):
        load_dataset(tmp_path / "a.csv")
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(UsageError, match="not a whole npz file"):
        load_dataset(tmp_path / "a.npz")
    pytest.importorskip("h5py")
    (tmp_path / "a.h5").write_bytes(b"\x89HDF")
    with pytest.raises(UsageError, match="not a whole HDF5 file"):
        load_dataset(tmp_path / "a.h5")
