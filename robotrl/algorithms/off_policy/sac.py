r"""Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905) on an ensemble of critics.

    y      = r + gamma (1 - terminated) (min_i Q'_i(s', a') - alpha log pi(a'|s')),  a' ~ pi(.|s')
    L_Q    = sum_i E[(Q_i(s, a) - y)^2]
    L_pi   = E[alpha log pi(a|s) - min_i Q_i(s, a)],                                a ~ pi(.|s)
    L_alpha = -E[log alpha (log pi(a|s) + target_entropy)]

The gradients are written out (`MLP.backprop`, `SquashedDraw.backprop`): at these sizes autograd and the
optimisers' bookkeeping cost almost half as much as the arithmetic (12 ms an update in the peers, 8.5 here:
`scripts/bench_update.py`).
`tests/test_off_policy.py` holds the update to autograd in float64.

Differences: any number of updates per collected step (`replay_ratio`); observations are normalised
by running statistics inside policy and critics (switch off with `policy.normalize_obs=false`);
`policy_delay` updates the policy and temperature every so many critic updates, 1 in the paper; actions may
be chunks (`policy.horizon`), the target is then the h-step return. The defaults are for thousands of cheap
simulations; the paper's are learning_rate 3e-4, tau 0.005, policy_delay 1, initial_alpha 1 and replay_ratio
1 from one environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.config import OffPolicyConfig
from robotrl.algorithms.off_policy.critic import Critic
from robotrl.algorithms.off_policy.learner import OffPolicyAlgorithm
from robotrl.algorithms.off_policy.temperature import Temperature
from robotrl.core import checks
from robotrl.core.types import Specs
from robotrl.data.replay import Transitions
from robotrl.networks.critic import Aggregate
from robotrl.networks.flat_adam import FlatAdam
from robotrl.policies.gaussian import SquashedGaussianPolicy
from robotrl.policies.policy import HasSquashedDraw, Policy


@dataclass
class SACConfig(OffPolicyConfig):
    """Hyperparameters of SAC."""

    replay_ratio: float = 0.04
    """Gradient steps per environment transition collected; > 0. 1 is the paper's."""
    learning_rate: float = 1e-3
    """Of Adam, for policy, critics and temperature; > 0."""
    tau: float = 0.01
    """Share of the critics that moves into their targets at each update; in (0, 1]."""
    policy_delay: int = 2
    """Critic updates per policy update; >= 1."""
    initial_alpha: float = 0.05
    """Temperature at the start; > 0."""
    target_entropy_per_action: float = -1.0
    """Target entropy divided by the action dimension, nats."""
    backup_entropy: bool = True
    """Whether the target counts the entropy of the next action; it hurts where rewards are sparse."""
    policy_aggregate: Aggregate = Aggregate.MIN
    """min or mean of all critics, which the policy climbs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.above(self, 0, "initial_alpha")
        checks.finite(self, "target_entropy_per_action")
        if self.policy_aggregate is Aggregate.MEAN_MINUS_STD:
            raise ValueError("policy_aggregate must be min or mean, got mean_minus_std")


class SAC(OffPolicyAlgorithm):
    """SAC with automatic temperature.

    Args:
        specs: of the environment.
        policy: what `make_policy` returned.
        config: hyperparameters.
        rng: of weights and draws.
        actor: the part of the policy that is drawn from and learns; None for all of it.
    """

    config_class: ClassVar[type] = SACConfig
    default_policy: ClassVar[type[Policy]] = SquashedGaussianPolicy
    default_num_envs: ClassVar[int] = 1024
    requires: ClassVar[tuple[type, ...]] = (HasSquashedDraw,)

    config: SACConfig

    def __init__(
        self,
        specs: Specs,
        policy: Policy,
        config: SACConfig,
        rng: torch.Generator,
        actor: HasSquashedDraw | None = None,
    ) -> None:
        super().__init__(specs, policy, config, rng)
        self.actor = _drawn_from(policy) if actor is None else actor
        self.policy_optimizer = FlatAdam(self.actor.net.flat, config.learning_rate)
        self.temperature = Temperature(
            config.initial_alpha,
            config.target_entropy_per_action * policy.chunk_dim,
            config.learning_rate,
        )
        self._policy_grad = torch.empty_like(self.actor.net.flat)

    def target(self, batch: Transitions) -> Tensor:
        """R + gamma (1 - terminated) (min_i Q'_i(s', a') - alpha log pi(a'|s')), (B,)."""
        draw, _ = self.actor.draw(self.policy_features(batch.next_obs), self.rng)
        value = self.critic.value(self.critic_features(batch.next_obs), draw.action, self.rng)
        if self.config.backup_entropy:
            value.addcmul_(self.temperature.alpha, draw.log_prob, value=-1)
        return torch.addcmul(batch.reward, batch.discount, value)

    def update_policy(self, batch: Transitions) -> dict[str, Tensor]:
        """Descend E[alpha log pi - min_i Q_i], then move the temperature."""
        return self.climb(self.critic, self.policy_features(batch.obs), self.critic_features(batch.obs))

    def climb(self, critic: Critic, features: Tensor, critic_features: Tensor) -> dict[str, Tensor]:
        """Do one gradient step on the actor and the temperature.

        Args:
            critic: whose online ensemble is climbed.
            features: (B, D), what the actor sees.
            critic_features: (B, D'), what the critic sees.
        """
        draw, tape = self.actor.draw(features, self.rng)
        values, pull = critic.online.with_gradient(critic_features, draw.action)
        value, grad = self._climbed(values)
        alpha = self.temperature.alpha
        self.actor.backprop(draw, tape, pull(grad), alpha / len(value), self._policy_grad)
        self.policy_optimizer.step(self._policy_grad)

        log_prob = draw.log_prob.mean()
        self.temperature.update(log_prob)
        return {
            "loss/policy": alpha * log_prob - value.mean(),
            "policy/entropy": -log_prob,
            "policy/alpha": self.temperature.log_alpha.exp(),
        }

    def _climbed(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the policy climbs, (B,), and d(-its mean) / d(values), (E, B)."""
        num_critics, batch_size = values.shape
        if self.config.policy_aggregate is Aggregate.MEAN:
            return values.mean(0), torch.full_like(values, -1 / (num_critics * batch_size))
        smallest, member = values.min(0)
        return smallest, torch.zeros_like(values).scatter_(0, member.unsqueeze(0), -1 / batch_size)

    def parts(self) -> dict[str, Any]:
        """Add the policy's optimiser and the temperature."""
        return super().parts() | {
            "policy_optimizer": self.policy_optimizer,
            "temperature": self.temperature,
        }


def _drawn_from(policy: Policy) -> HasSquashedDraw:
    assert isinstance(policy, HasSquashedDraw)
    return policy
