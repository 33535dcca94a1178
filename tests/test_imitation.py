"""Imitation inside the learners: what did not happen of a chunk is not imitated."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from test_generative_rl import FEW, SMALL, flow, make
from test_off_policy import SPECS, rng
from test_released_presets import windows

from robotrl.algorithms.off_policy.bc import BC, BCConfig
from robotrl.algorithms.off_policy.expo import EXPO, EXPOConfig
from robotrl.algorithms.off_policy.fql import FQL, FQLConfig
from robotrl.algorithms.off_policy.idql import IDQL, IDQLConfig
from robotrl.algorithms.off_policy.qc import QC, QCConfig
from robotrl.policies.deterministic import DeterministicConfig, DeterministicPolicy
from robotrl.policies.gaussian import SquashedGaussianConfig, SquashedGaussianPolicy


def deterministic() -> DeterministicPolicy:
    config = DeterministicConfig(hidden=[8], horizon=3, normalize_obs=False)
    return DeterministicPolicy(SPECS, config, rng(0))


def gaussian() -> SquashedGaussianPolicy:
    config = SquashedGaussianConfig(hidden=[8], horizon=3, normalize_obs=False)
    return SquashedGaussianPolicy(SPECS, config, rng(0))


LEARNERS = {
    "bc": (BC, BCConfig(learning_rate=1e-2), deterministic),
    "bc_gaussian": (BC, BCConfig(learning_rate=1e-2), gaussian),
    "qc": (QC, QCConfig(**SMALL, num_samples=2), gaussian),
    "idql": (IDQL, IDQLConfig(**SMALL, num_samples=2), gaussian),
    "expo": (EXPO, EXPOConfig(**SMALL, **FEW), gaussian),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_actions_that_did_not_happen_are_not_imitated(name: str) -> None:
    algorithm, config, base = LEARNERS[name]
    batch = windows([1, 2, 3, 1, 2])
    padding = batch.mask.repeat_interleave(2, 1) == 0
    changed = {
        "nothing": batch.action,
        "padding": torch.where(padding, 0.7, batch.action),
        "what happened": torch.where(padding, batch.action, batch.action.roll(1, 0)),
    }
    learned = {}
    for what, action in changed.items():
        learner = make(algorithm, base(), config)
        learner.update(dataclasses.replace(batch, action=action))
        learned[what] = [weights.detach().clone() for weights in learner.imitation.policy.parameters()]
    assert all(map(torch.equal, learned["nothing"], learned["padding"]))
    assert not all(map(torch.equal, learned["nothing"], learned["what happened"]))


@pytest.mark.parametrize(
    ("algorithm", "config"), [(BC, BCConfig(learning_rate=1e-2)), (FQL, FQLConfig(**SMALL))]
)
def test_a_flow_is_not_asked_where_to_go_in_steps_that_did_not_happen(algorithm, config) -> None:
    """Their padding is a part of what it sees, their velocity is no part of the loss."""
    learner, batch, draws = make(algorithm, flow(horizon=3), config), windows([1, 2, 3, 1, 2]), rng()
    draws.set_state(learner.rng.get_state())
    imitating = copy.deepcopy(learner.imitation.policy)
    if algorithm is FQL:  # of the critics' target
        torch.randn(5, 6, generator=draws)
    t = torch.rand(5, 1, generator=draws)
    noise = torch.empty(5, 6).normal_(generator=draws)
    x = (1 - t) * noise + t * batch.action
    velocity = imitating.denoiser(batch.obs["policy"], x, 4 * t.squeeze(1))
    error = (velocity - (batch.action - noise)).square() * batch.mask.repeat_interleave(2, 1)
    adam = torch.optim.Adam(imitating.parameters(), 1e-2)
    error.mean().backward()
    adam.step()
    learner.update(batch)
    for ours, reference in zip(learner.imitation.policy.parameters(), imitating.parameters(), strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-4)
