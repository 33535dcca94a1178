"""`verify --sim dm_control`: dm_control's own task in place of ours, number by number and as a score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import make_policy
from dm_control_parity import copy_state, make_task

from robotrl.cli import main
from robotrl.core.errors import UsageError
from robotrl.envs.vec_env import VecEnv
from robotrl.export.bundle import export_policy
from robotrl.policies.gaussian import GaussianPolicy
from robotrl.tasks.control_suite.cartpole import Cartpole
from robotrl.tasks.realism import Realism
from robotrl.training.dm_control_original import original_of
from robotrl.training.robustness import measure


@pytest.mark.parametrize("name", ["walker_walk", "cartpole_swingup", "fish_swim", "manipulator_bring_ball"])
def test_an_action_does_there_what_it_does_here(name: str) -> None:
    task = make_task(name)
    ours, theirs = VecEnv(task, 1, num_threads=1), original_of(task, name).make_env(1)
    ours.reset()
    theirs.reset()
    copy_state(ours.sim, 0, theirs._vector.envs[0].unwrapped._env.physics)  # type: ignore[attr-defined]
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        action = torch.rand(1, ours.specs.action_dim, generator=rng) * 2 - 1
        here, there = ours.step(action), theirs.step(action)
        np.testing.assert_allclose(there.obs["policy"], here.obs["policy"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(there.reward, here.reward, atol=1e-5)


def test_a_bundle_scores_the_same_in_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = make_task("cartpole_balance")
    policy = make_policy(GaussianPolicy, task)
    provenance = {"seed": 0, "task_name": "cartpole_balance"}
    bundle = export_policy(policy, task, tmp_path / "bundle", provenance=provenance)
    found = measure(bundle, ("cpu", "dm_control"), [], 12).simulators
    here, there = found["cpu"], found["dm_control"]
    assert here.mean is not None and there.mean is not None
    assert 0 < there.mean < 1000 and there.low <= here.high and here.low <= there.high  # type: ignore[operator]
    assert main(["verify", str(bundle), "--sim", "dm_control", "--episodes", "2"]) == 0
    assert "return in dm_control" in capsys.readouterr().out
    assert main(["verify", str(bundle), "--sim", "dm_control", "--sweep", "delay=0..20ms"]) == 2
    assert "name another simulator before dm_control" in capsys.readouterr().err


def test_what_dm_control_does_not_have_is_refused() -> None:
    for task, name, message in (
        (Cartpole(), "my_cartpole", "dm_control has no task like my_cartpole"),
        (
            Cartpole(realism=Realism(action_noise=0.1)),
            "cartpole_balance",
            "this cartpole_balance has action_noise",
        ),
        (
            Cartpole(episode_length_s=5.0),
            "cartpole_balance",
            r"no cartpole_balance with episode_length_s=5\.0",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            original_of(task, name)
