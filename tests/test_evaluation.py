"""Evaluations: whole episodes that no training has seen, and honest intervals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import overrides

from robotrl.compose import compose
from robotrl.core.config import SEEDS, evaluation_seed
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.aerial.quadrotor_juggle import QuadrotorJuggle
from robotrl.training import train as train_module
from robotrl.training.evaluation import Evaluation, evaluate, evaluate_run, save_evaluation
from robotrl.training.metrics import read_metrics
from robotrl.training.run_folder import RunFolder
from robotrl.training.train import make_loop, train


def test_evaluation_counts_one_episode_per_environment_and_repeats_exactly(tmp_path):
    path = train(compose(overrides("ppo", tmp_path, "total_steps=256")), show_progress=False)
    first = evaluate_run(path, episodes=7, seed=5)
    rows = (path / "evaluation" / "episodes.csv").read_text().splitlines()
    assert len(rows) == 8 and rows[0] == "episode,return,length,terminated,valid"
    returns = [float(row.split(",")[1]) for row in rows[1:]]
    assert first["mean"] == pytest.approx(np.mean(returns))
    assert first["ci_low"] <= first["mean"] <= first["ci_high"]
    again = evaluate_run(path, episodes=7, seed=5)
    assert again == first
    assert evaluate_run(path, episodes=7, seed=6)["mean"] != first["mean"]
    assert json.loads((path / "evaluation" / "summary.json").read_text())["seed"] == 6


def test_evaluate_stops_counting_after_the_first_episode():
    """A policy evaluated on episodes of 25 steps: every length is 25, whatever the order of the resets."""
    config = compose(overrides("ppo", Path("unused")))
    loop = make_loop(config)
    result = evaluate(loop.algorithm.policy, config.task, 5, seed=0)
    assert (result.lengths == 50).all() and result.valid.all() and not result.terminated.any()
    assert ((result.returns > 0) & (result.returns <= 50)).all()


class FirstObservation:
    """Stands in for a policy and keeps what it sees first."""

    horizon = 1

    def __init__(self, env):
        self.seen = None
        self.idle = torch.zeros(env.num_envs, env.specs.action_dim)

    def act(self, obs, deterministic, rng):
        self.seen = obs["policy"].clone() if self.seen is None else self.seen
        return self.idle


@dataclass
class Flown(QuadrotorJuggle):
    """Every episode lasts until something has fallen; the score is how long that took, s."""

    def scores(self, sim):
        return {"flown": sim.data("time").clone()}


def test_scores_are_those_of_the_episodes_they_are_listed_with(tmp_path):
    task = Flown()
    env = VecEnv(task, 20)
    result = evaluate(FirstObservation(env), task, 20, seed=3)
    assert len(set(result.lengths)) > 3
    np.testing.assert_allclose(result.scores["flown"], 0.02 * result.lengths, rtol=1e-5)
    summary = save_evaluation(tmp_path, result, seed=3, env_steps=0)
    assert summary["scores"]["flown"]["mean"] == pytest.approx(0.02 * result.lengths.mean(), rel=1e-5)
    header, row, *_ = (tmp_path / "episodes.csv").read_text().splitlines()
    assert header.endswith(",valid,flown") and float(row.split(",")[-1]) == result.scores["flown"][0]


def test_no_training_draws_what_an_evaluation_draws(monkeypatch):
    """torch keeps 32 bits of a seed: seed + 2^32 would be the same stream again."""
    task = compose(overrides("ppo", Path("unused"))).task
    env = VecEnv(task, 3, seed=7)
    policy = FirstObservation(env)
    evaluate(policy, task, 3, seed=7)
    assert not torch.equal(policy.seen, env.reset()["policy"])
    low, high = evaluation_seed(0), evaluation_seed(SEEDS - 1)
    assert SEEDS <= low < high < 2**32

    def stream(seed):
        return torch.rand(4, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(stream(1), stream(1 + 2**32))
    assert not torch.equal(stream(high), stream(high % SEEDS))


def test_an_evaluation_without_a_sound_episode_has_no_mean(tmp_path, monkeypatch):
    def diverged(policy, task, episodes, seed, num_threads=None):
        ones = np.ones(episodes)
        return Evaluation(ones, ones, np.zeros(episodes, bool), np.zeros(episodes, bool))

    monkeypatch.setattr(train_module, "evaluate", diverged)
    options = overrides(
        "ppo", tmp_path, "total_steps=256", "eval_every=128", "export=true", "target_return=1"
    )
    run = RunFolder(train(compose(options), show_progress=False))
    summary = json.loads((run.evaluation / "summary.json").read_text())
    assert (summary["mean"], summary["ci_low"], summary["ci_high"]) == (None, None, None)
    assert json.loads((run.bundle / "contract.json").read_text())["training"]["return_mean"] is None
    assert "every episode diverged" in (run.path / "report.html").read_text()
    assert not [name for row in read_metrics(run.metrics_file) for name in row if name.startswith("eval/")]


def test_bootstrap_interval_of_a_constant_is_the_constant_and_failures_are_left_out():
    valid = np.array([True, True, False])
    result = Evaluation(np.array([5.0, 5.0, 1e9]), np.ones(3), np.zeros(3, bool), valid)
    assert result.mean == 5.0 and result.interval() == (5.0, 5.0)


def test_bootstrap_interval_covers_the_mean_of_a_normal_sample():
    draws = np.random.default_rng(1).normal(10.0, 2.0, size=400)
    result = Evaluation(draws, np.ones(400), np.zeros(400, bool), np.ones(400, bool))
    low, high = result.interval()
    half = 1.96 * draws.std() / 20
    assert low == pytest.approx(draws.mean() - half, abs=0.05)
    assert high == pytest.approx(draws.mean() + half, abs=0.05)
