"""Checkpoints: exact round trips, and damage that is told in one line."""

from __future__ import annotations

import errno
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from robotrl.core import checkpoint
from robotrl.core.errors import RobotrlError

LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.floats(allow_nan=False)
TREES = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1) | st.integers(0, 9),
    st.recursive(
        LEAVES, lambda t: st.lists(t, max_size=3) | st.dictionaries(st.integers(0, 5), t, max_size=3)
    ),
    max_size=4,
)


@given(tree=TREES)
def test_any_tree_comes_back_equal(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("checkpoint") / "c.safetensors"
    checkpoint.save(path, tree)
    assert checkpoint.load(path) == tree


def test_tensors_of_every_kind_come_back_bit_for_bit(tmp_path):
    tree = {
        "a": torch.randn(3, 4)[:, ::2],  # strided
        "b": {0: torch.tensor(math.pi, dtype=torch.float64), 1: torch.zeros(0, 5)},
        "c": [torch.tensor([True, False]), torch.arange(3), torch.Generator().get_state()],
    }
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, tree)
    back = checkpoint.load(path)
    for got, expected in (
        (back["a"], tree["a"]),
        (back["b"][0], tree["b"][0]),
        (back["b"][1], tree["b"][1]),
        *zip(back["c"], tree["c"], strict=True),
    ):
        assert got.dtype == expected.dtype and torch.equal(got, expected)


def test_reading_a_part_leaves_the_rest_unread(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"algorithm": {"policy": {"w": torch.ones(2)}}, "buffer": torch.zeros(9)})
    part = checkpoint.load(path, prefix="algorithm/policy")
    assert torch.equal(part["algorithm"]["policy"]["w"], torch.ones(2)) and part["buffer"] is None


def test_every_truncation_is_reported_in_one_line(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"w": torch.ones(100), "n": 3})
    whole = path.read_bytes()
    for length in (0, 7, 50, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RobotrlError, match="is damaged") as error:
            checkpoint.load(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_foreign_file_is_refused(tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.ones(2)}, foreign)
    with pytest.raises(RobotrlError, match="not a robotrl checkpoint"):
        checkpoint.load(foreign)
    pickle = tmp_path / "model.pt"
    torch.save({"w": torch.ones(2)}, pickle)
    with pytest.raises(RobotrlError, match="is damaged"):
        checkpoint.load(pickle)
    with pytest.raises(RobotrlError, match="does not exist"):
        checkpoint.load(tmp_path / "missing")


def test_a_full_disk_leaves_the_old_checkpoint_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"n": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("robotrl.core.files.os.fsync", full)
    with pytest.raises(RobotrlError, match=r"cannot write checkpoint .*No space left"):
        checkpoint.save(path, {"n": 2})
    assert checkpoint.load(path) == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_that_share_memory_are_kept_under_each_name(tmp_path):
    weights = torch.arange(6.0)
    tree = {"policy": {"critic": weights, "half": weights[:3]}, "critic": weights}
    checkpoint.save(tmp_path / "c.safetensors", tree)
    found = checkpoint.load(tmp_path / "c.safetensors")
    assert torch.equal(found["policy"]["critic"], weights) and torch.equal(found["critic"], weights)
    assert torch.equal(found["policy"]["half"], weights[:3])
