"""Learners that normalise observations learn what those do that are given them normalised by hand.

The float64 references of updates (`test_generative_updates` and others) are of learners that do not.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_generative_rl import FEW, SMALL, diffusion, flow, gaussian, make
from test_off_policy import SPECS, random_batch, rng

from robotrl.algorithms.off_policy.bc import BC, BCConfig
from robotrl.algorithms.off_policy.dsrl import DSRL, DSRLConfig
from robotrl.algorithms.off_policy.dsrl_sac import DSRLSAC
from robotrl.algorithms.off_policy.expo import EXPO, EXPOConfig
from robotrl.algorithms.off_policy.fql import FQL, FQLConfig
from robotrl.algorithms.off_policy.idql import IDQL, IDQLConfig
from robotrl.algorithms.off_policy.learner import ReplayLearner
from robotrl.algorithms.off_policy.qc import QC, QCConfig
from robotrl.algorithms.off_policy.residual import Residual, ResidualConfig
from robotrl.algorithms.off_policy.sac import SAC, SACConfig
from robotrl.algorithms.off_policy.steering import SteeringConfig
from robotrl.algorithms.off_policy.td3 import TD3, TD3Config
from robotrl.policies.deterministic import DeterministicConfig, DeterministicPolicy


def deterministic(normalize_obs: bool = False) -> DeterministicPolicy:
    config = DeterministicConfig(hidden=[16], normalize_obs=normalize_obs)
    return DeterministicPolicy(SPECS, config, rng(0))


CASES = {
    "td3": (TD3, deterministic, TD3Config(**SMALL, policy_delay=1)),
    "sac": (SAC, gaussian, SACConfig(**SMALL, policy_delay=1)),
    "idql": (IDQL, diffusion, IDQLConfig(**SMALL, num_samples=4)),
    "fql": (FQL, flow, FQLConfig(**SMALL)),
    "dsrl": (DSRL, flow, DSRLConfig(**SMALL, noise_hidden=[16])),
    "dsrl_sac": (DSRLSAC, flow, SteeringConfig(**SMALL, noise_hidden=[16])),
    "residual": (Residual, flow, ResidualConfig(**SMALL, residual_hidden=[16], num_critics=3)),
    "expo": (EXPO, flow, EXPOConfig(**SMALL, **FEW)),
    "qc": (QC, flow, QCConfig(**SMALL, num_samples=4)),
    "bc": (BC, flow, BCConfig(learning_rate=1e-2)),
}


def by_hand(obs: dict[str, torch.Tensor], seen: torch.Tensor) -> dict[str, torch.Tensor]:
    var, mean = torch.var_mean(seen.double(), 0, correction=0)
    return {"policy": ((obs["policy"].double() - mean) / (var + 1e-8).sqrt()).float()}


def weights(learner: ReplayLearner) -> dict[str, torch.Tensor]:
    """All that it has learned, by name; statistics of observations and gradients aside."""
    found: dict[str, torch.Tensor] = {}

    def walk(node: object, name: str) -> None:
        if isinstance(node, torch.Tensor) and node.is_floating_point():
            found[name] = node
        elif isinstance(node, dict):
            for key, value in node.items():
                if not any(word in str(key) for word in ("normalizer", "optimizer")):
                    walk(value, f"{name}/{key}")

    walk(learner.state_dict(), "")
    return found


@pytest.mark.parametrize("name", CASES)
def test_an_update_on_raw_observations_is_the_one_on_normalised_ones(name: str) -> None:
    algorithm, base, config = CASES[name]
    ours, plain = (make(algorithm, base(normalize_obs=flag), config) for flag in (True, False))
    seen = 3.0 + 2.0 * torch.randn(500, 3, generator=rng(4))
    for part in (ours.policy.normalizer, getattr(ours, "critic_normalizer", None)):
        if part is not None:
            part.update(seen)
    before = {key: values.clone() for key, values in weights(plain).items()}
    assert before.keys() == weights(ours).keys()
    for seed in range(2):
        batch = random_batch(seed)
        raw = {name: {"policy": 3.0 + 2.0 * getattr(batch, name)["policy"]} for name in ("obs", "next_obs")}
        ours.update(dataclasses.replace(batch, **raw))
        plain.update(dataclasses.replace(batch, **{name: by_hand(obs, seen) for name, obs in raw.items()}))
    for key, values in weights(plain).items():
        torch.testing.assert_close(weights(ours)[key], values, rtol=0, atol=1e-4, msg=key)
    assert any(not torch.equal(values, before[key]) for key, values in weights(plain).items())
    obs = raw["obs"]
    torch.testing.assert_close(
        ours.policy.act(obs, deterministic=True, rng=rng(6)),
        plain.policy.act(by_hand(obs, seen), deterministic=True, rng=rng(6)),
        rtol=0,
        atol=1e-3,
    )
