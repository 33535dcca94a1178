"""Gaussian and deterministic policies that decide for several control steps, alone and under the learners."""

from __future__ import annotations

import json

import pytest
import torch
from test_generative_rl import SPECS
from test_off_policy import rng

from robotrl.compose import compose
from robotrl.core.errors import UsageError
from robotrl.policies.deterministic import DeterministicConfig, DeterministicPolicy
from robotrl.policies.gaussian import (
    GaussianConfig,
    GaussianPolicy,
    SquashedGaussianConfig,
    SquashedGaussianPolicy,
)
from robotrl.policies.sampled_gaussian import SampledGaussian
from robotrl.training.restore import load_policy_and_config
from robotrl.training.train import train

OPTIONS = {"hidden": [8], "horizon": 3, "normalize_obs": False}
MASK = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.randn(4, SPECS.obs_dim("policy"), generator=rng(1))
    return features, torch.rand(4, 3 * SPECS.action_dim, generator=rng(2)) * 1.8 - 0.9


def kept(terms: torch.Tensor) -> torch.Tensor:
    """Sum over the steps that MASK keeps, in a loop."""
    width = SPECS.action_dim
    steps = [MASK[:, t] * terms[:, t * width : (t + 1) * width].sum(1) for t in range(3)]
    return torch.stack(steps).sum(0)


def test_the_likelihood_of_a_chunk_is_that_of_the_steps_that_count():
    features, action = batch()
    policy = GaussianPolicy(SPECS, GaussianConfig(**OPTIONS, mean_gain=1.0, initial_std=0.7), rng())
    normal = torch.distributions.Normal(policy.net(features).double(), policy.log_std.exp().double())
    expected = -kept(normal.log_prob(action.double()))
    loss = policy.bc_loss(features, action, rng(), mask=MASK)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)

    squashed = SquashedGaussianPolicy(SPECS, SquashedGaussianConfig(**OPTIONS), rng())
    mean, log_std = squashed.net(features).double().chunk(2, dim=-1)
    normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
    log_probs = torch.distributions.TransformedDistribution(
        normal, torch.distributions.TanhTransform(cache_size=1)
    ).log_prob(action.double())
    loss = squashed.bc_loss(features, action, rng(), mask=MASK)
    torch.testing.assert_close(loss.double(), -kept(log_probs), rtol=1e-4, atol=1e-4)

    regression = DeterministicPolicy(SPECS, DeterministicConfig(**OPTIONS), rng())
    error = (regression.net(features).tanh() - action).square()
    loss = regression.bc_loss(features, action, rng(), mask=MASK)
    torch.testing.assert_close(loss, kept(error) / action.shape[1])


def test_a_sampled_chunk_has_a_noise_of_its_own_for_every_step():
    policy = SampledGaussian(SquashedGaussianPolicy(SPECS, SquashedGaussianConfig(**OPTIONS), rng()))
    assert (policy.horizon, policy.noise_dim) == (3, 3 * SPECS.action_dim)
    features, _ = batch()
    noise = torch.randn(4, 5, policy.noise_dim, generator=rng(3))
    mean, log_std = policy.gaussian.net(features).chunk(2, dim=-1)
    expected = torch.tanh(mean.unsqueeze(1) + log_std.clamp(-5, 2).exp().unsqueeze(1) * noise)
    torch.testing.assert_close(policy.decode(features, noise), expected)


TINY = ["task=pendulum_swingup", "task.episode_length_s=0.5", "eval_episodes=2", "seed=3", "torch_threads=1"]
LEARNER = ["num_envs=4", "algorithm.hidden=[8]", "policy.hidden=[8]", "algorithm.batch_size=8"]
LEARNER += ["algorithm.learning_starts=1", "algorithm.replay_ratio=0.05", "total_steps=200"]
METHODS = {
    "rlpd": ["policy=squashed_gaussian", "algorithm.policy_delay=2"],
    "td3": ["policy=deterministic"],
    "expo": ["policy=gaussian", "algorithm.num_samples=3", "algorithm.num_edits=2"],
    "qc": ["policy=squashed_gaussian", "algorithm.num_samples=3"],
}


@pytest.mark.parametrize("method", list(METHODS))
def test_methods_learn_chunks_of_gaussians_and_export_them(method, tmp_path):
    words = [*TINY, *LEARNER, f"algorithm={method}", *METHODS[method], f"runs_dir={tmp_path}"]
    run = train(compose([*words, "policy.horizon=3"]), show_progress=False)
    policy, _ = load_policy_and_config(run)
    obs = {"policy": torch.randn(6, policy.obs_dim, generator=rng())}
    assert policy.act(obs, rng=rng()).shape == (6, 3 * policy.action_dim)
    assert json.loads((run / "bundle" / "contract.json").read_text())["horizon"] == 3
    assert all(check["passed"] for check in json.loads((run / "bundle" / "verification.json").read_text()))


@pytest.mark.parametrize(
    ("algorithm", "name"), [("ppo", "PPO"), ("gorl", "GoRL"), ("stream_ac", "StreamActorCritic")]
)
def test_methods_of_single_steps_refuse_chunks(algorithm, name, tmp_path):
    words = [*TINY, f"algorithm={algorithm}", "policy=gaussian", "policy.horizon=3", f"runs_dir={tmp_path}"]
    message = rf"{name} learns from single control steps, not from chunks of 3: set policy\.horizon=1"
    with pytest.raises(UsageError, match=message):
        train(compose(words), show_progress=False)


def test_a_replay_too_small_for_a_chunk_is_refused(tmp_path):
    words = [*TINY, "algorithm=sac", "policy.horizon=3", "num_envs=4", "algorithm.replay_size=8"]
    small = ["algorithm.batch_size=8", "algorithm.learning_starts=8", f"runs_dir={tmp_path}"]
    with pytest.raises(UsageError, match=r"cannot take 3 control steps of 4 simulations: .* at least 12"):
        train(compose([*words, *small]), show_progress=False)
