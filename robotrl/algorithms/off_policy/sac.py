r"""Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905) with twin critics as one batched ensemble.

    y      = r + gamma (1 - terminated) (min_i Q'_i(s', a') - alpha log pi(a'|s')),  a' ~ pi(.|s')
    L_Q    = sum_i E[(Q_i(s, a) - y)^2]
    L_pi   = E[alpha log pi(a|s) - min_i Q_i(s, a)],                                a ~ pi(.|s)
    L_alpha = -E[log alpha (log pi(a|s) + target_entropy)]

Differences: any number of updates per collected step (`replay_ratio`); observations are normalised
by running statistics inside policy and critics (switch off with `policy.normalize_obs=false`);
`policy_delay` updates the policy and temperature every so many critic updates, 1 in the paper.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.algorithm import Algorithm
from robotrl.core.types import Obs, Specs
from robotrl.data.replay import Transitions
from robotrl.networks.mlp import MLP, Activation, Init
from robotrl.networks.normalizer import RunningNormalizer
from robotrl.policies.gaussian import SquashedGaussianPolicy
from robotrl.policies.policy import HasReparameterizedSample, Policy


@dataclass
class SACConfig:
    """Hyperparameters of SAC."""

    replay_size: int = 1_000_000
    """Transitions kept; >= batch_size."""
    batch_size: int = 256
    """Transitions per gradient step; >= 1."""
    replay_ratio: float = 0.05
    """Gradient steps per environment transition collected; > 0. 1 is the paper's."""
    learning_starts: int = 10_000
    """Transitions collected with uniformly random actions before learning; >= 1."""
    learning_rate: float = 3e-4
    """Of Adam, for policy, critics and temperature; > 0."""
    gamma: float = 0.99
    """Discount; in [0, 1)."""
    tau: float = 0.005
    """Share of the critics that moves into their targets at each update; in (0, 1]."""
    policy_delay: int = 1
    """Critic updates per policy update; >= 1."""
    initial_alpha: float = 1.0
    """Temperature at the start; > 0."""
    target_entropy_per_action: float = -1.0
    """Target entropy divided by the action dimension, nats."""
    num_critics: int = 2
    """Members of the critic ensemble; the target uses the smallest; >= 1."""
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the critics' hidden layers."""
    activation: Activation = Activation.RELU
    """Of the critics: relu, tanh or elu."""
    critic_groups: list[str] = field(default_factory=lambda: ["policy"])
    """Observation groups of the critics; add "privileged" for asymmetric critics."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "learning_starts", "num_critics", "policy_delay"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("replay_ratio", "learning_rate", "initial_alpha"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.replay_size < self.batch_size:
            raise ValueError(f"replay_size {self.replay_size} is below batch_size {self.batch_size}")
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma must be in [0, 1), got {self.gamma}")
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau must be in (0, 1], got {self.tau}")


class SAC(Algorithm):
    """SAC with automatic temperature."""

    config_class: ClassVar[type] = SACConfig
    loop: ClassVar[str] = "off_policy"
    default_policy: ClassVar[type[Policy]] = SquashedGaussianPolicy
    default_num_envs: ClassVar[int] = 64
    requires: ClassVar[tuple[type, ...]] = (HasReparameterizedSample,)

    policy: SquashedGaussianPolicy

    def __init__(self, specs: Specs, policy: Policy, config: SACConfig, rng: torch.Generator) -> None:
        super().__init__(specs, policy, rng)
        self.config = config
        obs_dim = specs.obs_dim(*config.critic_groups)
        self.critic_normalizer = RunningNormalizer(obs_dim) if policy.normalizer is not None else None
        self.critics = MLP(
            obs_dim + specs.action_dim,
            config.hidden,
            1,
            config.activation,
            Init.UNIFORM,
            rng,
            num_members=config.num_critics,
        )
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = torch.tensor(math.log(config.initial_alpha), requires_grad=True)
        self.target_entropy = config.target_entropy_per_action * specs.action_dim
        self.critic_optimizer, self.policy_optimizer, self.alpha_optimizer = (
            torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
            for parameters in ([self.critics.flat], policy.parameters(), [self.log_alpha])
        )
        self.num_updates = 0

    @torch.no_grad()
    def act(self, obs: Obs) -> Tensor:
        """Draw exploring actions, (N, A) in [-1, 1]."""
        return self.policy.act(obs, rng=self.rng)

    def observe(self, obs: Obs) -> None:
        """Merge newly collected observations into the normalisers."""
        if self.policy.normalizer is not None and self.critic_normalizer is not None:
            self.policy.normalizer.update(self.policy.flatten(obs))
            self.critic_normalizer.update(torch.cat([obs[g] for g in self.config.critic_groups], -1))

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Do one gradient step on critics and, every `policy_delay` steps, on policy and temperature."""
        self.num_updates += 1
        metrics = self._update_critics(batch)
        if self.num_updates % self.config.policy_delay == 0:
            metrics |= self._update_policy(batch)
        with torch.no_grad():
            self.target_critics.flat.lerp_(self.critics.flat, self.config.tau)
        return metrics

    def _critic_features(self, obs: Obs) -> Tensor:
        groups = [obs[group] for group in self.config.critic_groups]
        flat = groups[0] if len(groups) == 1 else torch.cat(groups, dim=-1)
        return flat if self.critic_normalizer is None else self.critic_normalizer(flat)

    def _policy_features(self, obs: Obs) -> Tensor:
        return self.policy.normalize(self.policy.flatten(obs))

    def _update_critics(self, batch: Transitions) -> dict[str, Tensor]:
        with torch.no_grad():
            next_features = self._policy_features(batch.next_obs)
            next_action, next_log_prob = self.policy.sample_with_log_prob(next_features, self.rng)
            next_input = torch.cat([self._critic_features(batch.next_obs), next_action], dim=-1)
            next_q = self.target_critics(next_input).squeeze(-1).amin(0)
            soft_value = next_q - self.log_alpha.exp() * next_log_prob
            target = batch.reward + self.config.gamma * (1 - batch.terminated) * soft_value
        q = self.critics(torch.cat([self._critic_features(batch.obs), batch.action], dim=-1)).squeeze(-1)
        loss = (q - target).square().mean(1).sum()
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimizer.step()
        return {"loss/value": loss.detach(), "value/q": q.detach().mean()}

    def _update_policy(self, batch: Transitions) -> dict[str, Tensor]:
        action, log_prob = self.policy.sample_with_log_prob(self._policy_features(batch.obs), self.rng)
        self.critics.requires_grad_(False)
        q = self.critics(torch.cat([self._critic_features(batch.obs), action], dim=-1)).squeeze(-1).amin(0)
        self.critics.requires_grad_(True)
        loss = (self.log_alpha.detach().exp() * log_prob - q).mean()
        self.policy_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.policy_optimizer.step()

        log_prob = log_prob.detach().mean()
        self.log_alpha.grad = -(log_prob + self.target_entropy)
        self.alpha_optimizer.step()
        return {
            "loss/policy": loss.detach(),
            "policy/entropy": -log_prob,
            "policy/alpha": self.log_alpha.detach().exp(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return networks, normalisers, optimisers, temperature and generator."""
        return {
            "policy": self.policy.state_dict(),
            "critics": self.critics.state_dict(),
            "target_critics": self.target_critics.state_dict(),
            "critic_normalizer": self.critic_normalizer.state_dict() if self.critic_normalizer else {},
            "log_alpha": self.log_alpha.detach(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
            "num_updates": self.num_updates,
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.policy.load_state_dict(state["policy"])
        self.critics.load_state_dict(state["critics"])
        self.target_critics.load_state_dict(state["target_critics"])
        if self.critic_normalizer is not None:
            self.critic_normalizer.load_state_dict(state["critic_normalizer"])
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.alpha_optimizer.load_state_dict(state["alpha_optimizer"])
        self.num_updates = state["num_updates"]
        self.rng.set_state(state["rng"])
