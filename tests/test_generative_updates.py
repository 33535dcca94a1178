"""IDQL, FQL, residuals and EXPO: whole updates against their formulas in float64, written down with autograd.

Two updates each, so that targets are no longer the networks that they follow.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from test_generative_rl import flow, make
from test_off_policy import random_batch, rng

from robotrl.algorithms.off_policy.expo import EXPO, EXPOConfig
from robotrl.algorithms.off_policy.fql import FQL, FQLConfig
from robotrl.algorithms.off_policy.idql import IDQL, IDQLConfig
from robotrl.algorithms.off_policy.residual import Residual, ResidualConfig
from robotrl.data.replay import Transitions
from robotrl.networks.mlp import Activation, Norm

RATE, TAU = 1e-2, 0.1
COMMON = {
    "hidden": [8],
    "learning_rate": RATE,
    "tau": TAU,
    "num_critics": 3,
    "activation": Activation.TANH,
    "critic_norm": Norm.NONE,
}


class Reference:
    """Critics in float64 that start as a learner's, and draws that repeat its own."""

    def __init__(self, learner) -> None:
        self.learner, self.draws = learner, rng()
        self.draws.set_state(learner.rng.get_state())
        self.q, self.q_target = double(learner.critic.online.net), double(learner.critic.target.net)
        self.adam = torch.optim.Adam(self.q.parameters(), RATE)

    def updates(self) -> Iterator[Transitions]:
        for seed in range(2):
            batch = random_batch(seed)
            self.learner.update(batch)
            yield batch

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.empty(*shape).normal_(generator=self.draws)

    def fit_critics(self, batch: Transitions, y: torch.Tensor) -> None:
        assert (batch.discount > 0).any() and (batch.discount == 0).any()
        loss = (values(self.q, batch.obs, batch.action) - y).square().mean(1).sum()
        descend(self.adam, loss)
        with torch.no_grad():
            self.q_target.flat.lerp_(self.q.flat, TAU)

    def check_critics(self) -> None:
        check(self.learner.critic.online.net.flat, self.q.flat)
        check(self.learner.critic.target.net.flat, self.q_target.flat)


def double(net):
    return copy.deepcopy(net).requires_grad_(True).double()


def values(net, obs, action) -> torch.Tensor:
    """What critics say, (E, B)."""
    return net(torch.cat([obs["policy"].double(), action.double()], -1)).squeeze(-1)


def descend(adam: torch.optim.Adam, loss: torch.Tensor) -> None:
    adam.zero_grad()
    loss.backward()
    adam.step()


def check(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(mine.detach().double(), theirs.detach().double(), rtol=0, atol=1e-4)


def check_modules(mine, theirs) -> None:
    for ours, reference in zip(mine.parameters(), theirs.parameters(), strict=True):
        check(ours, reference)


def test_idql_updates_equal_a_float64_reference():
    ours = make(IDQL, flow(), IDQLConfig(**COMMON, expectile=0.8, num_samples=4))
    reference = Reference(ours)
    imitating = copy.deepcopy(ours.imitation.policy)
    v = double(ours.value)
    v_adam = torch.optim.Adam(v.parameters(), RATE)
    imitation_adam = torch.optim.Adam(imitating.parameters(), RATE)
    for batch in reference.updates():
        now, after = batch.obs["policy"].double(), batch.next_obs["policy"].double()
        error = values(reference.q_target, batch.obs, batch.action).amin(0).detach() - v(now).squeeze(1)
        weight = (0.8 - (error < 0).double()).abs()
        descend(v_adam, (weight * error.square()).mean())
        reference.fit_critics(batch, batch.reward + batch.discount * v(after).squeeze(1).detach())
        descend(imitation_adam, imitating.bc_loss(batch.obs["policy"], batch.action, reference.draws).mean())
    reference.check_critics()
    assert ours.policy.critics is ours.critic.target
    check(ours.value.flat, v.flat)
    check_modules(ours.policy.base, imitating)


def test_fql_updates_equal_a_float64_reference():
    ours = make(FQL, flow(), FQLConfig(**COMMON, one_step_hidden=[8], distill_weight=0.7))
    reference = Reference(ours)
    flowing, one_step = copy.deepcopy(ours.policy.flow), copy.deepcopy(ours.policy.one_step).double()
    imitation_adam = torch.optim.Adam(flowing.parameters(), RATE)
    adam = torch.optim.Adam(one_step.parameters(), RATE)
    for batch in reference.updates():
        action = one_step.decode(batch.next_obs["policy"].double(), reference.normal(16, 2).double())
        y = batch.reward + batch.discount * values(reference.q_target, batch.next_obs, action).mean(0)
        reference.fit_critics(batch, y.detach())
        now = batch.obs["policy"]
        descend(imitation_adam, flowing.bc_loss(now, batch.action, reference.draws).mean())
        noise = reference.normal(16, 2)
        uncut = one_step.uncut(now.double(), noise.double())
        q = values(reference.q, batch.obs, uncut.clamp(-1, 1))
        distance = (uncut - flowing.decode(now, noise)).square().mean()
        descend(adam, 0.7 * distance - q.mean() / q.mean(0).abs().mean().detach())
    reference.check_critics()
    check_modules(ours.policy.flow, flowing)
    check_modules(ours.policy.one_step, one_step)


def test_residual_updates_equal_a_float64_reference():
    config = ResidualConfig(
        **COMMON, residual_hidden=[8], residual_scale=0.5, initial_alpha=0.3, target_members=None
    )
    ours = make(Residual, flow(), config)
    reference = Reference(ours)
    base, net = ours.policy.base, double(ours.policy.edit.net)
    adam = torch.optim.Adam(net.parameters(), RATE)
    log_alpha = torch.tensor(0.3, dtype=torch.float64).log().requires_grad_(True)
    alpha_adam = torch.optim.Adam([log_alpha], RATE)

    def corrected(obs) -> tuple[torch.Tensor, torch.Tensor]:
        a_base = base.decode(obs["policy"], reference.normal(16, 2))
        mean, log_std = net(torch.cat([obs["policy"], a_base], -1).double()).chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        u = mean + normal.scale * reference.normal(16, 2).double()
        log_prob = (normal.log_prob(u) + 2 * u.cosh().log()).sum(-1)
        return (a_base + 0.5 * u.tanh()).clamp(-1, 1), log_prob

    for batch in reference.updates():
        action, _ = corrected(batch.next_obs)
        y = batch.reward + batch.discount * values(reference.q_target, batch.next_obs, action).amin(0)
        reference.fit_critics(batch, y.detach())
        action, log_prob = corrected(batch.obs)
        alpha = log_alpha.exp().detach()
        descend(adam, (alpha * log_prob).mean() - values(reference.q, batch.obs, action).mean())
        descend(alpha_adam, -log_alpha * (log_prob.mean().detach() - 1.0))
    reference.check_critics()
    check(ours.policy.edit.net.flat, net.flat)
    check(torch.as_tensor(ours.edits.temperature.alpha), log_alpha.exp())


def test_expo_updates_equal_a_float64_reference():
    """Targets are proposed by the base that imitates, edits learned at its samples; its average acts."""
    config = EXPOConfig(
        **COMMON | {"num_critics": 4}, num_samples=3, num_edits=2, edit_hidden=[8], edit_scale=0.5,
        base_ema=0.3, initial_alpha=0.3, policy_delay=1,
    )  # fmt: skip
    ours = make(EXPO, flow(), config)
    reference = Reference(ours)
    imitating, net = copy.deepcopy(ours.imitation.policy), double(ours.policy.edit.net)
    average = copy.deepcopy(imitating)
    imitation_adam = torch.optim.Adam(imitating.parameters(), RATE)
    adam = torch.optim.Adam(net.parameters(), RATE)
    log_alpha = torch.tensor(0.3, dtype=torch.float64).log().requires_grad_(True)
    alpha_adam = torch.optim.Adam([log_alpha], RATE)

    def edited(obs, base, eps) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = net(torch.cat([obs["policy"], base], -1).double()).chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        u = mean + normal.scale * eps.double()
        log_prob = (normal.log_prob(u) + 2 * u.cosh().log()).sum(-1)
        return (base + 0.5 * u.tanh()).clamp(-1, 1), log_prob

    for batch in reference.updates():
        now, after = batch.obs["policy"], batch.next_obs["policy"]
        order = torch.randperm(4, generator=reference.draws)
        noise = reference.normal(16, 3 * 2 + 2 * 2).view(16, 5, 2)
        samples = [imitating.decode(after, noise[:, k]) for k in range(3)]
        edits = [edited(batch.next_obs, samples[k], noise[:, 3 + k])[0] for k in range(2)]
        candidates = torch.stack([sample.double() for sample in samples] + edits)
        said = torch.stack([values(reference.q_target, batch.next_obs, a)[order[:2]] for a in candidates])
        best = candidates[said.amin(1).argmax(0), torch.arange(16)]
        valued = values(reference.q_target, batch.next_obs, best)[order[2:]].amin(0)
        reference.fit_critics(batch, (batch.reward + batch.discount * valued).detach())
        descend(imitation_adam, imitating.bc_loss(now, batch.action, reference.draws).mean())
        with torch.no_grad():
            for kept, learned in zip(average.parameters(), imitating.parameters(), strict=True):
                kept += 0.3 * (learned - kept)
        base = imitating.decode(now, reference.normal(16, 2))
        action, log_prob = edited(batch.obs, base, reference.normal(16, 2))
        alpha = log_alpha.exp().detach()
        descend(adam, (alpha * log_prob).mean() - values(reference.q, batch.obs, action).mean())
        descend(alpha_adam, -log_alpha * (log_prob.mean().detach() - 1.0))
    reference.check_critics()
    check(ours.policy.edit.net.flat, net.flat)
    check(torch.as_tensor(ours.edits.temperature.alpha), log_alpha.exp())
    check_modules(ours.imitation.policy, imitating)
    check_modules(ours.policy.base, average)
    assert ours.policy.critics is ours.critic.target
