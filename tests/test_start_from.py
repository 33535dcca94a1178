"""`algorithm.init_from`: what begins as the trained policy was, networks and statistics of observations."""

from __future__ import annotations

import pytest
import torch
from test_generative_rl import FEW, SMALL, diffusion, flow, gaussian, make
from test_off_policy import rng

from robotrl.algorithms.off_policy.bc import BC, BCConfig
from robotrl.algorithms.off_policy.config import Preset
from robotrl.algorithms.off_policy.dsrl import DSRL, DSRLConfig
from robotrl.algorithms.off_policy.dsrl_sac import DSRLSAC
from robotrl.algorithms.off_policy.expo import EXPO, EXPOConfig
from robotrl.algorithms.off_policy.fql import FQL, FQLConfig
from robotrl.algorithms.off_policy.idql import IDQL, IDQLConfig
from robotrl.algorithms.off_policy.qc import QC, QCConfig
from robotrl.algorithms.off_policy.residual import Residual, ResidualConfig
from robotrl.algorithms.off_policy.sac import SAC, SACConfig
from robotrl.algorithms.off_policy.steering import SteeringConfig
from robotrl.policies.policy import Policy
from robotrl.policies.sampled_gaussian import proposer

RELEASED = {"preset": Preset.RELEASED, "offline_updates": 5}
BEGINNERS = {
    "bc": (BC, BCConfig(), ["policy"]),
    "fql": (FQL, FQLConfig(**SMALL), ["imitation.policy", "policy.flow"]),
    "qc": (QC, QCConfig(**SMALL, num_samples=4), ["imitation.policy", "policy.base"]),
    "expo": (EXPO, EXPOConfig(**SMALL, **FEW), ["imitation.policy", "policy.base", "average.module"]),
    "idql": (IDQL, IDQLConfig(**SMALL, num_samples=4), ["imitation.policy", "policy.base"]),
    "idql_released": (
        IDQL, IDQLConfig(**SMALL, num_samples=4, **RELEASED), ["imitation.policy", "average.module"],
    ),
    "residual": (Residual, ResidualConfig(**SMALL, num_critics=3), ["policy.base"]),
    "dsrl": (DSRL, DSRLConfig(**SMALL), ["policy.base"]),
}  # fmt: skip
CASES = [(name, base) for name in BEGINNERS for base in (flow, diffusion, gaussian) if name != "fql"]
CASES.append(("fql", flow))
# those whose critics have a normaliser of their own
WITH_STATISTICS = {name: BEGINNERS[name][:2] for name in ("fql", "residual", "dsrl")} | {
    "dsrl_sac": (DSRLSAC, SteeringConfig(**SMALL)),
    "sac": (SAC, SACConfig(**SMALL)),
}


def trained(base: Policy) -> Policy:
    """The policy with other weights than it was made with, and statistics of observations."""
    with torch.no_grad():
        for weights in base.parameters():
            weights += 0.2 * torch.randn(weights.shape, generator=rng(5))
    base.normalizer.update(3.0 + 2.0 * torch.randn(64, 3, generator=rng(6)))
    return base


@pytest.mark.parametrize(("name", "base"), CASES)
def test_what_imitates_and_what_acts_begin_as_the_trained_policy(name, base):
    algorithm, config, parts = BEGINNERS[name]
    ours = make(algorithm, base(normalize_obs=True), config)
    theirs = trained(base(normalize_obs=True))
    ours.start_from(theirs)
    assert ours.policy.normalizer.count == 64
    if name not in ("bc", "residual"):
        theirs = proposer(theirs, name)
    if name == "dsrl" and base is diffusion:
        theirs.drop_step_noise()
    obs = {"policy": 3.0 + 2.0 * torch.randn(20, 3, generator=rng(7))}
    expected = theirs.act(obs, rng=rng(8))
    for path in parts:
        part = ours
        for step in path.split("."):
            part = getattr(part, step)
        torch.testing.assert_close(part.act(obs, rng=rng(8)), expected, rtol=0, atol=0)


def test_before_there_is_something_to_distil_the_trained_flow_explores():
    ours, theirs = make(FQL, flow(normalize_obs=True), FQLConfig(**SMALL)), trained(flow(normalize_obs=True))
    ours.start_from(theirs)
    ours.rng.manual_seed(8)
    obs = {"policy": torch.randn(20, 3, generator=rng(7))}
    assert torch.equal(ours.act(obs), theirs.act(obs, rng=rng(8)))


@pytest.mark.parametrize("name", WITH_STATISTICS)
def test_critics_that_observe_the_same_begin_with_the_policys_statistics(name):
    algorithm, config = WITH_STATISTICS[name]
    base = gaussian if name == "sac" else flow
    ours, theirs = make(algorithm, base(normalize_obs=True), config), trained(base(normalize_obs=True))
    ours.start_from(theirs)
    obs = {"policy": 3.0 + 2.0 * torch.randn(20, 3, generator=rng(7))}
    assert ours.critic_normalizer.count == 64
    assert torch.equal(ours.critic_features(obs), theirs.normalizer(obs["policy"]))
    # theirs go on, the policy's of a base that stays as it is do not
    ours.observe(obs)
    assert ours.critic_normalizer.count == 84
    assert ours.policy.normalizer.count == (64 if ours.needs_origin else 84)
