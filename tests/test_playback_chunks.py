"""Controllers that decide several control steps at once: played step by step, in viewers, videos and runs."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from generative_bundles import TASK, exporter, make

from robotrl.cli import main
from robotrl.core.config import learner_seed
from robotrl.deploy.bundle import Bundle
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.control_suite.walker import Walker
from robotrl.training.controller import Controller, deterministic
from robotrl.training.evaluation import evaluate
from robotrl.training.play import load_controller
from robotrl.training.playback import FirstEpisodes, Playback
from robotrl.training.video import Grid, record_video


class Counted:
    """Chunks of three steps whose six numbers are decision / 100 + step / 1000; keeps what it was asked."""

    def __init__(self):
        self.asked = []
        self.controller = Controller(self.decide, horizon=3)

    def decide(self, obs):
        self.asked.append(len(obs["policy"]))
        rows = [len(self.asked) / 100 + step / 1000 for step in range(3) for _ in range(6)]
        return torch.tensor(rows).expand(self.asked[-1], 18)


def executed(player):
    """What the actuators of each simulation were told in the last control step."""
    return [round(value, 4) for value in player.env.sim.data("ctrl")[:, 0].tolist()]


def advance(player, steps):
    told = []
    for _ in range(steps):
        player.advance()
        told.append(executed(player))
    return told


def test_playback_plays_a_chunk_to_its_end_or_the_episodes():
    counted = Counted()
    playback = Playback(counted.controller, Walker(episode_length_s=0.2), "walker")  # 8 control steps
    assert advance(playback, 4) == [[0.01], [0.011], [0.012], [0.02]]
    playback.restart()  # by the user, in the middle of a chunk
    assert advance(playback, 7) == [[0.03], [0.031], [0.032], [0.04], [0.041], [0.042], [0.05]]
    assert playback.advance() and playback.episode == 3  # the episode's end, in the middle of a chunk
    assert advance(playback, 2) == [[0.06], [0.061]]
    assert counted.asked == [1] * 6


def test_first_episodes_ask_for_those_that_are_due():
    counted = Counted()
    episodes = FirstEpisodes(counted.controller, Walker(episode_length_s=0.2), 2, seed=0)
    assert advance(episodes, 7)[-2:] == [[0.022, 0.022], [0.03, 0.03]]
    episodes.advance()
    assert not episodes.running.any()
    assert advance(episodes, 1) == [[0.04, 0.04]]
    assert counted.asked == [2] * 4


def test_runs_of_one_seed_are_the_same(tmp_path):
    policy, path = exporter(tmp_path)("qc", 4)
    first, same, other = (evaluate(policy, TASK, 3, seed) for seed in (1, 1, 2))
    assert first.returns.tolist() == same.returns.tolist() != other.returns.tolist()
    # what a bundle does in a viewer is what its network says to the noise of the seed
    controller, task, _ = load_controller(path, seed=5)
    assert controller.horizon == 4
    bundle, env = Bundle.load(path), VecEnv(TASK, 2, seed=9)
    obs = env.reset()
    noise = np.random.default_rng(learner_seed(5)).standard_normal((2, 96), np.float32)
    decision = controller.decide(obs)
    low, high = policy.specs.action_low.repeat(4), policy.specs.action_high.repeat(4)
    commands = low + (decision + 1) / 2 * (high - low)
    torch.testing.assert_close(
        commands.float(), torch.from_numpy(bundle(obs["policy"].numpy(), noise)), atol=1e-5, rtol=0
    )
    record_video(controller, task, tmp_path / "b.mp4", seed=5, grid=Grid(1, 2), width=32, height=32)
    assert len(iio.imread(tmp_path / "b.mp4")) == pytest.approx(1.25 * 30, abs=1)


def test_the_noise_of_a_policy_follows_the_seed():
    policy, obs = make("flow", 1), VecEnv(TASK, 2, seed=9).reset()
    first, same, other = (deterministic(policy, seed).decide(obs) for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_a_run_is_exported_in_fewer_steps_verified_and_shown(tmp_path, capsys):
    words = ["task=pendulum_swingup", "task.episode_length_s=0.4", "algorithm=qc", "policy.hidden=[8]"]
    words += ["policy.horizon=3", "policy.steps=4", "algorithm.hidden=[8]", "algorithm.num_samples=2"]
    words += ["algorithm.learning_starts=64", "algorithm.batch_size=8", "num_envs=4", "total_steps=128"]
    assert main(["train", *words, "eval_episodes=2", "export=false", f"runs_dir={tmp_path / 'runs'}"]) == 0
    (config,) = (tmp_path / "runs").rglob("config.yaml")
    run = config.parent
    assert main(["export", str(run), "--steps", "1"]) == 0
    contract = Bundle.load(run / "bundle-1steps").contract
    assert (contract.sampling_steps, contract.horizon, contract.noise_dim) == (1, 3, 6)
    capsys.readouterr()
    assert main(["verify", str(run / "bundle-1steps")]) == 0
    assert "against the training policy" in capsys.readouterr().out
    assert main(["export", str(run), "--steps", "0"]) == 2
    assert "sampling_steps must be in 1 to 1000, got 0" in capsys.readouterr().err
    assert (
        main(["play", str(run / "bundle-1steps"), "--video", str(tmp_path / "v.mp4"), "--video-grid", "1x2"])
        == 0
    )
    assert main(["evaluate", str(run), "--episodes", "2", "--video"]) == 0


def test_steps_cannot_be_chosen_where_there_are_none(trained, capsys):
    assert main(["export", str(trained), "--steps", "2"]) == 2
    assert "GaussianPolicy has no denoising steps" in capsys.readouterr().err
