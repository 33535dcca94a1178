r"""Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905) with twin critics as one batched ensemble.

    y      = r + gamma (1 - terminated) (min_i Q'_i(s', a') - alpha log pi(a'|s')),  a' ~ pi(.|s')
    L_Q    = sum_i E[(Q_i(s, a) - y)^2]
    L_pi   = E[alpha log pi(a|s) - min_i Q_i(s, a)],                                a ~ pi(.|s)
    L_alpha = -E[log alpha (log pi(a|s) + target_entropy)]

The gradients are written out (`MLP.backprop`, `SquashedDraw.backprop`): at these sizes autograd and the
optimisers' bookkeeping cost more than the arithmetic (13 against 8 ms an update on two shared cores).
`tests/test_off_policy.py` holds the update to autograd in float64.

Differences: any number of updates per collected step (`replay_ratio`); observations are normalised
by running statistics inside policy and critics (switch off with `policy.normalize_obs=false`);
`policy_delay` updates the policy and temperature every so many critic updates, 1 in the paper. The
defaults are for thousands of cheap simulations; the paper's are learning_rate 3e-4, tau 0.005,
policy_delay 1, initial_alpha 1 and replay_ratio 1 from one environment.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.algorithm import Algorithm
from robotrl.core import checks
from robotrl.core.types import Obs, Specs
from robotrl.data.replay import Transitions
from robotrl.networks.flat_adam import FlatAdam
from robotrl.networks.mlp import MLP, Activation, Init
from robotrl.networks.normalizer import RunningNormalizer
from robotrl.policies.gaussian import SquashedGaussianPolicy
from robotrl.policies.policy import HasSquashedDraw, Policy


@dataclass
class SACConfig:
    """Hyperparameters of SAC."""

    replay_size: int = 1_000_000
    """Transitions kept; >= batch_size, learning_starts and the number of simulations."""
    batch_size: int = 256
    """Transitions per gradient step; >= 1."""
    replay_ratio: float = 0.04
    """Gradient steps per environment transition collected; > 0. 1 is the paper's."""
    learning_starts: int = 5_000
    """Transitions collected with uniformly random actions before learning; >= 1."""
    learning_rate: float = 1e-3
    """Of Adam, for policy, critics and temperature; > 0."""
    gamma: float = 0.99
    """Discount; in [0, 1)."""
    tau: float = 0.01
    """Share of the critics that moves into their targets at each update; in (0, 1]."""
    policy_delay: int = 2
    """Critic updates per policy update; >= 1."""
    initial_alpha: float = 0.05
    """Temperature at the start; > 0."""
    target_entropy_per_action: float = -1.0
    """Target entropy divided by the action dimension, nats."""
    num_critics: int = 2
    """Members of the critic ensemble; the target uses the smallest; >= 1."""
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the critics' hidden layers."""
    activation: Activation = Activation.RELU
    """Of the critics: relu, tanh, elu, gelu, silu or mish."""
    critic_groups: list[str] = field(default_factory=lambda: ["policy"])
    """Observation groups of the critics; add "privileged" for asymmetric critics."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "batch_size", "learning_starts", "num_critics", "policy_delay")
        checks.above(self, 0, "replay_ratio", "learning_rate", "initial_alpha")
        checks.finite(self, "target_entropy_per_action")
        checks.within(self, "[0, 1)", "gamma")
        checks.within(self, "(0, 1]", "tau")
        checks.widths(self, "hidden")
        for name in ("batch_size", "learning_starts"):
            if self.replay_size < getattr(self, name):
                raise ValueError(f"replay_size {self.replay_size} is below {name} {getattr(self, name)}")


class SAC(Algorithm):
    """SAC with automatic temperature."""

    config_class: ClassVar[type] = SACConfig
    loop: ClassVar[str] = "off_policy"
    default_policy: ClassVar[type[Policy]] = SquashedGaussianPolicy
    default_num_envs: ClassVar[int] = 1024
    requires: ClassVar[tuple[type, ...]] = (HasSquashedDraw,)

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
        self.target_critics = copy.deepcopy(self.critics)
        self.log_alpha = torch.tensor(math.log(config.initial_alpha))
        self.target_entropy = config.target_entropy_per_action * specs.action_dim
        self.critic_optimizer = FlatAdam(self.critics.flat, config.learning_rate)
        self.policy_optimizer = FlatAdam(self.policy.net.flat, config.learning_rate)
        self.alpha_optimizer = FlatAdam(self.log_alpha, config.learning_rate)
        self._critic_grad = torch.empty_like(self.critics.flat)
        self._policy_grad = torch.empty_like(self.policy.net.flat)
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

    @torch.no_grad()
    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Do one gradient step on critics and, every `policy_delay` steps, on policy and temperature."""
        self.num_updates += 1
        alpha = float(self.log_alpha.exp())
        metrics = self._update_critics(batch, alpha)
        if self.num_updates % self.config.policy_delay == 0:
            metrics |= self._update_policy(batch, alpha)
        self.target_critics.flat.lerp_(self.critics.flat, self.config.tau)
        return metrics

    def _policy_features(self, obs: Obs) -> Tensor:
        return self.policy.normalize(self.policy.flatten(obs))

    def _critic_input(self, obs: Obs, action: Tensor) -> Tensor:
        flat = torch.cat([obs[group] for group in self.config.critic_groups], dim=-1)
        if self.critic_normalizer is not None:
            flat = self.critic_normalizer(flat)
        return torch.cat([flat, action], dim=-1)

    def _update_critics(self, batch: Transitions, alpha: float) -> dict[str, Tensor]:
        next_draw, _ = self.policy.draw(self._policy_features(batch.next_obs), self.rng)
        next_q = self.target_critics.run(self._critic_input(batch.next_obs, next_draw.action))[-1]
        soft_value = next_q.squeeze(-1).amin(0).sub_(next_draw.log_prob, alpha=alpha)
        target = torch.addcmul(batch.reward, 1 - batch.terminated, soft_value, value=self.config.gamma)

        tape = self.critics.run(self._critic_input(batch.obs, batch.action))
        error = tape[-1].sub(target.unsqueeze(-1))
        # d/dq of sum_i mean (q_i - y)^2
        self.critics.backprop(tape, error * (2 / len(target)), self._critic_grad, wants_input=False)
        self.critic_optimizer.step(self._critic_grad)
        return {"loss/value": error.square_().mean(), "value/q": tape[-1].mean()}

    def _update_policy(self, batch: Transitions, alpha: float) -> dict[str, Tensor]:
        draw, tape = self.policy.draw(self._policy_features(batch.obs), self.rng)
        critic_tape = self.critics.run(self._critic_input(batch.obs, draw.action))
        smallest, member = critic_tape[-1].min(0)
        # d/dq of -mean min_i q_i: only the smallest member's value counts
        grad_q = torch.zeros_like(critic_tape[-1]).scatter_(0, member.unsqueeze(0), -1 / len(member))
        grad_input = self.critics.backprop(critic_tape, grad_q, None, wants_input=True)
        assert grad_input is not None
        grad_action = grad_input[..., -self.specs.action_dim :].sum(0)
        self.policy.backprop(draw, tape, grad_action, alpha / len(member), self._policy_grad)
        self.policy_optimizer.step(self._policy_grad)

        log_prob = draw.log_prob.mean()
        self.alpha_optimizer.step(-(log_prob + self.target_entropy))
        return {
            "loss/policy": alpha * log_prob - smallest.mean(),
            "policy/entropy": -log_prob,
            "policy/alpha": self.log_alpha.exp(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return networks, normalisers, optimisers, temperature and generator."""
        return {
            "policy": self.policy.state_dict(),
            "critics": self.critics.state_dict(),
            "target_critics": self.target_critics.state_dict(),
            "critic_normalizer": self.critic_normalizer.state_dict() if self.critic_normalizer else {},
            "log_alpha": self.log_alpha,
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
        self.log_alpha.copy_(state["log_alpha"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.alpha_optimizer.load_state_dict(state["alpha_optimizer"])
        self.num_updates = state["num_updates"]
        self.rng.set_state(state["rng"])
