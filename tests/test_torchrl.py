"""Our environments under TorchRL: its own checker, rollouts, transforms and collectors."""

from __future__ import annotations

import doctest
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import ObsTerm, Source, Step
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.gymnasium.hopper import Hopper

pytest.importorskip("torchrl")

from torchrl.collectors import Collector
from torchrl.envs import RewardSum, StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from robotrl.envs.torchrl import TorchRLEnv

WEIGHTS = 20 * torch.randn(11, 3, generator=torch.Generator().manual_seed(3))


class TwoGroups(Hopper):
    """Hopper with a second observation group."""

    def observation_terms(self, model):
        groups = super().observation_terms(model)
        return {**groups, "privileged": (ObsTerm("height", 1, "m", Source.SIMULATION),)}

    def observe(self, sim):
        return {**super().observe(sim), "privileged": {"height": sim.data("qpos")[:, 1]}}


def short_hopper(num_envs: int = 5, seed: int = 0) -> VecEnv:
    """Episodes of up to 20 steps: some end in a fall, some by the time limit."""
    return VecEnv(Hopper(episode_length_s=0.16), num_envs, seed, num_threads=1)


def policy(td: Any) -> Any:
    """Erratic actions that depend on the observation only: collectors may ask more often than they act."""
    td["action"] = torch.sin(td["observation"] @ WEIGHTS)
    return td


def test_it_passes_torchrls_checker() -> None:
    for env in (TorchRLEnv(short_hopper()), TorchRLEnv(short_hopper(1))):
        check_env_specs(env, break_when_any_done="both", seed=0)
        check_env_specs(TransformedEnv(env, RewardSum()))
    two = TorchRLEnv(VecEnv(TwoGroups(), 2, num_threads=1), ("policy", "privileged"))
    check_env_specs(two)
    assert two.reset()["privileged"].shape == (2, 1)


def test_rollouts_are_the_vec_envs_steps_with_the_true_last_observations() -> None:
    plain = short_hopper()
    roll = TorchRLEnv(short_hopper()).rollout(90, policy, break_when_any_done=False)
    obs = plain.reset()["policy"]
    ends = set()
    for t in range(90):
        now, after = roll[:, t], roll[:, t]["next"]
        assert torch.equal(now["observation"], obs)
        assert not now["done"].any()
        step: Step = plain.step(now["action"])
        assert torch.equal(after["observation"], step.final_obs["policy"])
        assert torch.equal(after["reward"].squeeze(1), step.reward)
        for name in ("terminated", "truncated", "done", "valid"):
            assert torch.equal(after[name].squeeze(1), getattr(step, name)), name
        obs = step.obs["policy"]
        ends |= {(bool(a), bool(b)) for a, b in zip(step.terminated, step.truncated, strict=True)}
    assert ends == {(False, False), (True, False), (False, True)}


def test_returns_are_those_of_the_vec_env() -> None:
    plain = short_hopper()
    env = TransformedEnv(TorchRLEnv(short_hopper()), RewardSum())
    collector = Collector(env, policy, frames_per_batch=300, total_frames=900)
    theirs = [batch["next", "episode_reward"][batch["next", "done"]] for batch in collector]
    obs, logs = plain.reset(), []
    for _ in range(180):
        step = plain.step(policy({"observation": obs["policy"]})["action"])
        obs = step.obs
        logs.append(step.log)
    ours = torch.cat([log["episode/return"] for log in logs if "episode/return" in log])
    assert len(ours) > 40
    torch.testing.assert_close(torch.cat(theirs).sort().values, ours.sort().values, atol=1e-4, rtol=0)


def test_seeds_and_whole_resets() -> None:
    env = TorchRLEnv(short_hopper())
    env.set_seed(9)
    first = env.rollout(40, policy)
    assert first["next", "done"].any() and first.shape[1] < 40  # it stopped where the first one ended
    env.set_seed(9)
    again = env.rollout(40, policy)
    assert torch.equal(first["next", "observation"], again["next", "observation"])
    env.set_seed(10)
    assert not torch.equal(env.reset()["observation"], first["observation"][:, 0])


def test_a_diverged_simulation_is_not_valid() -> None:
    env = TorchRLEnv(short_hopper())
    td = env.reset()
    assert td["valid"].all()
    env.env.sim.data("qvel")[2] = float("nan")
    after, td = env.step_and_maybe_reset(env.rand_action(td))
    assert after["next", "valid"].squeeze(1).tolist() == [True, True, False, True, True]
    assert after["next", "truncated"].squeeze(1).tolist() == [False, False, True, False, False]
    assert td["valid"].all() and not td["done"].any()


def test_what_it_refuses() -> None:
    env = TorchRLEnv(short_hopper())
    with pytest.raises(UsageError, match="did you mean 'policy'"):
        TorchRLEnv(short_hopper(), ("polcy",))
    with pytest.raises(UsageError, match=r"environments \[.*\] cannot be reset alone in mid-episode"):
        stopped = TransformedEnv(env, StepCounter(15))
        stopped.rollout(100, policy, break_when_any_done=False)
    roll = env.rollout(40, policy)
    ended = roll[:, -1]["next", "done"].squeeze(1).nonzero().squeeze(1).tolist()
    with pytest.raises(UsageError, match=re.escape(f"environments {ended} have ended: call maybe_reset")):
        env.rand_step(roll[:, -1]["next"])
    env.rand_step(env.reset())


def test_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensordict", None)
    monkeypatch.delitem(sys.modules, "robotrl.envs.torchrl", raising=False)
    with pytest.raises(RobotrlError, match=r'run pip install "robotrl\[torchrl\]"$'):
        importlib.import_module("robotrl.envs.torchrl")


def test_the_documented_session() -> None:
    """TorchRL is optional, so test_readme.py leaves it out."""
    page = (Path(__file__).parent.parent / "docs" / "adapters.md").read_text()
    sessions = re.findall(r"^```pycon\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(sessions) == 1
    session = doctest.DocTestParser().get_doctest(sessions[0], {}, "adapters.md", None, 0)
    report: list[str] = []
    doctest.DocTestRunner().run(session, out=report.append)
    assert not report, "".join(report)
