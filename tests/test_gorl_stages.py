"""GoRL's stages in numbers: what the next decoder imitates, how fast a stage learns, what pulls it."""

from __future__ import annotations

import copy

import pytest
import torch
from test_gorl import SPECS, rng

from robotrl.algorithms.on_policy.decoder import DecoderConfig, make_decoder
from robotrl.algorithms.on_policy.gorl import GoRL, GoRLConfig
from robotrl.algorithms.on_policy.ppo import Schedule
from robotrl.data.rollout import Rollout
from robotrl.policies.gaussian import GaussianConfig, GaussianPolicy

DECODER = DecoderConfig(hidden=[8], steps=3)
ONE_STEP = {"num_epochs": 1, "minibatch_size": 100, "hidden": [8], "max_grad_norm": 1e9}


def gorl(**options) -> GoRL:
    config = GoRLConfig(**{"stages": [1.0, 1.0], "data_share": 0.2} | ONE_STEP | options, decoder=DECODER)
    base = GaussianPolicy(SPECS, GaussianConfig(hidden=[8], mean_gain=1.0), rng(0))
    return GoRL(SPECS, GoRL.make_policy(SPECS, base, config, rng(1)), config, rng(2))


def in_stage_1(algorithm: GoRL) -> GoRL:
    """With a decoder that was not fitted, and sees observations by statistics of its own."""
    decoder = make_decoder(SPECS, ["policy"], True, DECODER, rng(3))
    decoder.normalizer.update(2.0 + 3.0 * torch.randn(50, 2, generator=rng(4)))
    algorithm.policy.adopt(decoder)
    algorithm.stage = 1
    return algorithm


def rollout(algorithm: GoRL, valid: torch.Tensor | None = None) -> Rollout:
    """Five steps of three environments, without an end."""
    obs = {"policy": torch.randn(5, 3, 2, generator=rng(5))}
    action = 2.0 * torch.randn(5, 3, 2, generator=rng(6))
    with torch.no_grad():
        flat = {"policy": obs["policy"].flatten(0, 1)}
        log_prob = algorithm.policy.log_prob(flat, action.flatten(0, 1)).view(5, 3)
    never = torch.zeros(5, 3, dtype=torch.bool)
    reward = torch.randn(5, 3, generator=rng(7))
    last = {"policy": torch.randn(3, 2, generator=rng(8))}
    valid = ~never if valid is None else valid
    return Rollout(obs, action, log_prob, reward, never, never, valid, last, {"policy": torch.empty(0, 2)})


@pytest.mark.parametrize("stage", [0, 1])
def test_a_decoder_imitates_what_was_executed_where_the_simulation_was_sound(stage: int) -> None:
    algorithm = gorl(stages=[1.0, 1.0, 1.0])
    if stage == 1:
        in_stage_1(algorithm)
    algorithm.collecting = True
    valid = torch.rand(5, 3, generator=rng(9)) < 0.6
    batch = rollout(algorithm, valid)
    algorithm.update(batch, 0.01)
    obs, z = batch.obs["policy"][valid], batch.action[valid]
    executed = algorithm.policy.decoder(obs, z) if stage == 1 else z.clamp(-1, 1)
    kept = algorithm.state_dict()["data"]
    assert 0 < len(obs) < 15 and (z - executed).abs().max() > 0.5
    torch.testing.assert_close(torch.cat(kept["obs"]), obs, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat(kept["action"]), executed, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("stage", "progress", "left"),
    [(0, 0.0, 1.0), (0, 0.15, 0.5), (1, 0.5, 1.0), (1, 0.75, 0.5), (1, 1.0, 0.0)],
)
def test_the_learning_rate_falls_over_what_a_stage_learns_from(
    stage: int, progress: float, left: float
) -> None:
    """The first of two stages learns until 0.3 of the training, the second from 0.5 on."""
    algorithm = gorl(schedule=Schedule.LINEAR, learning_rate=0.01)
    if stage == 1:
        in_stage_1(algorithm)
    metrics = algorithm.update(rollout(algorithm), progress)
    assert float(metrics["policy/learning_rate"]) == pytest.approx(0.01 * left, abs=1e-9)
    assert algorithm.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * left, abs=1e-9)


def test_the_pull_towards_the_prior_is_a_part_of_the_loss() -> None:
    pulled, free = (in_stage_1(gorl(prior_coef=coef)) for coef in (0.5, 0.0))
    encoder, batch = copy.deepcopy(free.policy.encoder).double(), rollout(free)
    for algorithm in (pulled, free):
        algorithm.update(batch)
    head = encoder.head(batch.obs["policy"].flatten(0, 1).double())
    (0.5 * (head.mean.square().mean() + head.log_std.exp().square().mean())).backward()
    found = zip(pulled.policy.encoder.parameters(), free.policy.encoder.parameters(), strict=True)
    for (with_pull, without), expected in zip(found, encoder.parameters(), strict=True):
        torch.testing.assert_close((with_pull.grad - without.grad).double(), expected.grad, rtol=0, atol=1e-5)
        assert expected.grad.abs().max() > 1e-3
