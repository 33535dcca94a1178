r"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347).

With ratio r = pi(a|s) / pi_old(a|s) and advantages A from GAE,

    L = -E[min(r A, clip(r, 1 - eps, 1 + eps) A)] + c_v E[(V(s) - R)^2] - c_e E[H(pi(.|s))].

Differences: advantages are normalised per minibatch; observation statistics are merged after the
update, so that the ratio starts at 1; steps of failed simulations are left out of every loss and of
the returns of the steps before them; `schedule=adaptive` moves the learning rate by the measured KL
(as in Rudin et al. 2021, arXiv:2109.11978) with the estimator E[r - 1 - log r] (Schulman 2020), valid
for any policy.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robotrl.algorithms.algorithm import Algorithm
from robotrl.core import checks
from robotrl.core.types import Obs, Specs
from robotrl.data.rollout import Rollout, generalized_advantage, successor_values
from robotrl.networks.mlp import MLP, Activation, Init
from robotrl.networks.normalizer import RunningNormalizer
from robotrl.policies.distributions import ActionDistribution
from robotrl.policies.gaussian import GaussianPolicy
from robotrl.policies.policy import HasDensity, Policy, StochasticPolicy


class Schedule(enum.Enum):
    """How the learning rate moves."""

    CONSTANT = "constant"
    LINEAR = "linear"
    ADAPTIVE = "adaptive"


# between which the adaptive schedule keeps the learning rate
_LEAST_RATE, _LARGEST_RATE = 1e-5, 1e-2


@dataclass
class PPOConfig:
    """Hyperparameters of PPO."""

    num_steps: int = 32
    """Control steps per environment between two updates; >= 1."""
    num_epochs: int = 5
    """Passes over each rollout; >= 1."""
    minibatch_size: int = 4096
    """Transitions per gradient step; >= 1."""
    learning_rate: float = 1e-3
    """Of Adam, at the start; > 0, and in [1e-5, 1e-2] if it adapts."""
    schedule: Schedule = Schedule.ADAPTIVE
    """constant, linear (to 0 at total_steps) or adaptive (keeps the KL near desired_kl)."""
    desired_kl: float = 0.01
    """KL per update that the adaptive schedule aims at, nats; > 0."""
    gamma: float = 0.99
    """Discount; in [0, 1)."""
    gae_lambda: float = 0.95
    """Lambda of GAE; in [0, 1]."""
    clip_ratio: float = 0.2
    """eps of the clipped ratio; > 0."""
    value_coef: float = 1.0
    """c_v; >= 0."""
    entropy_coef: float = 0.0
    """c_e; >= 0."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; > 0."""
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the critic's hidden layers."""
    activation: Activation = Activation.ELU
    """Of the critic: relu, tanh, elu, gelu, silu or mish."""
    critic_groups: list[str] = field(default_factory=lambda: ["policy"])
    """Observation groups of the critic; add "privileged" for an asymmetric critic."""

    def __post_init__(self) -> None:
        checks.choices(self)
        checks.at_least(self, 1, "num_steps", "num_epochs", "minibatch_size")
        checks.above(self, 0, "learning_rate", "desired_kl", "clip_ratio", "max_grad_norm")
        checks.at_least(self, 0, "value_coef", "entropy_coef")
        checks.within(self, "[0, 1)", "gamma")
        checks.within(self, "[0, 1]", "gae_lambda")
        checks.widths(self, "hidden")
        if self.schedule is Schedule.ADAPTIVE and not _LEAST_RATE <= self.learning_rate <= _LARGEST_RATE:
            raise ValueError(
                f"learning_rate must be in [{_LEAST_RATE}, {_LARGEST_RATE}], where schedule=adaptive "
                f"keeps it, got {self.learning_rate}: or set schedule=constant"
            )


class PPO(Algorithm):
    """PPO with a separate critic, GAE and correct bootstrapping at truncation."""

    config_class: ClassVar[type] = PPOConfig
    loop: ClassVar[str] = "on_policy"
    default_policy: ClassVar[type[Policy]] = GaussianPolicy
    default_num_envs: ClassVar[int] = 1024
    requires: ClassVar[tuple[type, ...]] = (HasDensity,)

    policy: StochasticPolicy

    def __init__(self, specs: Specs, policy: Policy, config: PPOConfig, rng: torch.Generator) -> None:
        super().__init__(specs, policy, rng)
        self.config = config
        dim = specs.obs_dim(*config.critic_groups)
        self.critic_normalizer = RunningNormalizer(dim) if policy.normalizer is not None else None
        self.critic = MLP(dim, config.hidden, 1, config.activation, Init.ORTHOGONAL, rng)
        self.parameters = [*policy.parameters(), *self.critic.parameters()]
        self.learning_rate = config.learning_rate
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, eps=1e-5, fused=True)

    def check_length(self, num_rollouts: float) -> None:
        """Refuse a training that is too short for the method; PPO takes any.

        Raises:
            UsageError: `num_rollouts` are too few.
        """

    @torch.no_grad()
    def sample(self, obs: Obs) -> tuple[Tensor, Tensor]:
        """Draw actions (N, A), not yet cut at the actuators' limits, and their log density (N,)."""
        distribution = self.policy.distribution(obs)
        action = distribution.sample(self.rng)
        return action, distribution.log_prob(action)

    def value(self, obs: Obs) -> Tensor:
        """V(s), (B,), for raw observations."""
        flat = torch.cat([obs[group] for group in self.config.critic_groups], dim=-1)
        if self.critic_normalizer is not None:
            flat = self.critic_normalizer(flat)
        return self.critic(flat).squeeze(-1)

    def update(self, batch: Rollout, progress: float = 0.0) -> dict[str, Tensor]:
        """Learn from one rollout.

        Args:
            batch: T steps of N environments.
            progress: fraction of the training that is done, for the linear schedule.

        Returns:
            Named scalars; none where every simulation failed and there is nothing to learn from.
        """
        config = self.config
        rows = batch.valid.flatten().nonzero().squeeze(1)
        if len(rows) == 0:
            return {}
        if config.schedule is Schedule.LINEAR:
            self._set_learning_rate(config.learning_rate * (1.0 - progress))
        flat_obs = {group: values.flatten(0, 1) for group, values in batch.obs.items()}
        with torch.no_grad():
            values = self.value(flat_obs).view_as(batch.reward)
            next_values = successor_values(batch, values, self.value)
            done = batch.terminated | batch.truncated
            advantages = generalized_advantage(
                batch.reward, values, next_values, done, batch.valid, config.gamma, config.gae_lambda
            )
        returns = (advantages + values).flatten()
        advantages, log_probs = advantages.flatten(), batch.log_prob.flatten()
        actions = batch.action.flatten(0, 1)

        metrics: list[dict[str, Tensor]] = []
        for _ in range(config.num_epochs):
            order = rows[torch.randperm(len(rows), generator=self.rng)]
            for pick in order.split(config.minibatch_size):
                obs = {group: values[pick] for group, values in flat_obs.items()}
                metrics.append(
                    self._gradient_step(obs, actions[pick], log_probs[pick], advantages[pick], returns[pick])
                )
        self._update_normalizers(flat_obs, rows)
        mean = {name: torch.stack([m[name] for m in metrics]).mean() for name in metrics[0]}
        residual = returns[rows] - values.flatten()[rows]
        mean["value/explained_variance"] = 1 - residual.var() / returns[rows].var().clamp(min=1e-8)
        mean["policy/learning_rate"] = torch.tensor(self.learning_rate)
        return mean

    def regularization(self, distribution: ActionDistribution) -> Tensor | float:
        """Return what is added to the loss for the policy's distribution: nothing in PPO itself."""
        return 0.0

    def _gradient_step(
        self, obs: Obs, action: Tensor, old_log_prob: Tensor, advantage: Tensor, returns: Tensor
    ) -> dict[str, Tensor]:
        config = self.config
        distribution = self.policy.distribution(obs)
        log_ratio = distribution.log_prob(action) - old_log_prob
        ratio = log_ratio.exp()
        if len(advantage) > 1:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped = ratio.clamp(1 - config.clip_ratio, 1 + config.clip_ratio)
        policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
        value_loss = (self.value(obs) - returns).square().mean()
        entropy = distribution.entropy().mean()
        loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
        loss = loss + self.regularization(distribution)

        with torch.no_grad():
            kl = (ratio - 1 - log_ratio).mean()
            clip_fraction = ((ratio - 1).abs() > config.clip_ratio).float().mean()
        if config.schedule is Schedule.ADAPTIVE:
            self._adapt_learning_rate(float(kl))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)
        self.optimizer.step()
        return {
            "loss/policy": policy_loss.detach(),
            "loss/value": value_loss.detach(),
            "policy/entropy": entropy.detach(),
            "policy/kl": kl,
            "policy/clip_fraction": clip_fraction,
        }

    def _adapt_learning_rate(self, kl: float) -> None:
        """Shrink the step where the policy has moved twice too far, grow it where half as far."""
        if kl > 2.0 * self.config.desired_kl:
            self._set_learning_rate(max(_LEAST_RATE, self.learning_rate / 1.5))
        elif 0.0 < kl < 0.5 * self.config.desired_kl:
            self._set_learning_rate(min(_LARGEST_RATE, self.learning_rate * 1.5))

    def _set_learning_rate(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def _update_normalizers(self, flat_obs: Obs, rows: Tensor) -> None:
        if self.policy.normalizer is None or self.critic_normalizer is None:
            return
        valid = {group: values[rows] for group, values in flat_obs.items()}
        self.policy.normalizer.update(self.policy.flatten(valid))
        self.critic_normalizer.update(
            torch.cat([valid[group] for group in self.config.critic_groups], dim=-1)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return networks, normalisers, optimiser, learning rate and generator."""
        return {
            "policy": self.policy.state_dict(),
            "critic": self.critic.state_dict(),
            "critic_normalizer": self.critic_normalizer.state_dict() if self.critic_normalizer else {},
            "optimizer": self.optimizer.state_dict(),
            "learning_rate": self.learning_rate,
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.policy.load_state_dict(state["policy"])
        self.critic.load_state_dict(state["critic"])
        if self.critic_normalizer is not None:
            self.critic_normalizer.load_state_dict(state["critic_normalizer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.learning_rate = state["learning_rate"]
        self.rng.set_state(state["rng"])
