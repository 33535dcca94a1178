"""Where environments are stepped without learning, torch keeps to one thread and gives the others back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import robotrl
from robotrl.export.bundle import export_policy
from robotrl.export.verify import verify_bundle
from robotrl.policies.gaussian import GaussianConfig, GaussianPolicy
from robotrl.sim.threads import one_torch_thread
from robotrl.training.evaluation import evaluate

THREADS = 3


class Watching(GaussianPolicy):
    """Notes how many threads torch may use whenever it acts."""

    seen: set[int] = set()  # noqa: RUF012

    def forward(self, flat: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            self.seen.add(torch.get_num_threads())
        return super().forward(flat)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def test_evaluation_recording_and_verification(tmp_path: Path) -> None:
    task = robotrl.make_env("pendulum_swingup", episode_length_s=0.2).task
    specs = task.specs(task.build_model())
    policy = Watching(specs, GaussianConfig(hidden=[8]), torch.Generator())
    steps: list[Any] = [
        lambda: evaluate(policy, task, 2, 0),
        lambda: export_policy(policy, task, tmp_path / "bundle", provenance={}),
        lambda: verify_bundle(tmp_path / "bundle", policy),
    ]
    for step in steps:
        Watching.seen.clear()
        step()
        assert Watching.seen == {1}
        assert torch.get_num_threads() == THREADS


def test_threads_come_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="inside"), one_torch_thread():
        raise ValueError("inside")
    assert torch.get_num_threads() == THREADS
