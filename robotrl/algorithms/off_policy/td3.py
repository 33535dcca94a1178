r"""Twin delayed DDPG (Fujimoto et al. 2018, arXiv:1802.09477) on an ensemble of critics.

    a'   = clip(mu'(s') + clip(eps, -c, c), -1, 1),  eps ~ N(0, sigma^2)
    y    = r + gamma (1 - terminated) min_i Q'_i(s', a')
    L_pi = -E[Q_1(s, mu(s))], every `policy_delay` critic updates, then mu' follows mu

Differences: observations are normalised by running statistics inside policy and critics; the policy's
target follows at its own updates with `tau`, the critics' at every update; any number of updates per
collected step. Exploration noise belongs to the policy (`policy.noise_std`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.config import OffPolicyConfig
from robotrl.algorithms.off_policy.learner import OffPolicyAlgorithm
from robotrl.core import checks
from robotrl.core.errors import UsageError
from robotrl.core.types import Specs
from robotrl.data.replay import Transitions
from robotrl.networks.flat_adam import FlatAdam
from robotrl.policies.deterministic import DeterministicPolicy
from robotrl.policies.policy import Policy


@dataclass
class TD3Config(OffPolicyConfig):
    """Hyperparameters of TD3."""

    policy_delay: int = 2
    """Critic updates per policy update; >= 1."""
    target_noise_std: float = 0.2
    """Standard deviation of the noise on the target's action; >= 0."""
    target_noise_clip: float = 0.5
    """That noise is cut at +- this; >= 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 0, "target_noise_std", "target_noise_clip")


class TD3(OffPolicyAlgorithm):
    """TD3 with a deterministic policy."""

    config_class: ClassVar[type] = TD3Config
    default_policy: ClassVar[type[Policy]] = DeterministicPolicy
    default_num_envs: ClassVar[int] = 1

    policy: DeterministicPolicy
    config: TD3Config

    def __init__(self, specs: Specs, policy: Policy, config: TD3Config, rng: torch.Generator) -> None:
        if not isinstance(policy, DeterministicPolicy):
            raise UsageError(
                f"TD3 trains policy=deterministic, got {type(policy).__name__}: leave policy= out, or "
                "choose another run for algorithm.init_from"
            )
        super().__init__(specs, policy, config, rng)
        self.target_net = copy.deepcopy(policy.net).requires_grad_(False)
        self.policy_optimizer = FlatAdam(policy.net.flat, config.learning_rate)
        self._policy_grad = torch.empty_like(policy.net.flat)

    def target(self, batch: Transitions) -> Tensor:
        """R + gamma (1 - terminated) min_i Q'_i(s', a') with a smoothed a', (B,)."""
        clip = self.config.target_noise_clip
        action = self.target_net.run(self.policy_features(batch.next_obs))[-1].tanh_()
        noise = torch.empty_like(action).normal_(generator=self.rng).mul_(self.config.target_noise_std)
        action.add_(noise.clamp_(-clip, clip)).clamp_(-1.0, 1.0)
        value = self.critic.value(self.critic_features(batch.next_obs), action, self.rng)
        return torch.addcmul(batch.reward, batch.discount, value)

    def update_policy(self, batch: Transitions) -> dict[str, Tensor]:
        """Climb the first critic."""
        tape = self.policy.net.run(self.policy_features(batch.obs))
        action = tape[-1].tanh()
        values, pull = self.critic.online.with_gradient(self.critic_features(batch.obs), action)
        grad = torch.zeros_like(values)
        grad[0] = -1 / len(action)
        grad_output = pull(grad) * (1 - action.square())
        self.policy.net.backprop(tape, grad_output, self._policy_grad, wants_input=False)
        self.policy_optimizer.step(self._policy_grad)
        self.target_net.flat.lerp_(self.policy.net.flat, self.config.tau)
        return {"loss/policy": -values[0].mean()}

    def take_over(self, policy: Policy) -> None:
        """Take over a trained policy, for the target too."""
        super().take_over(policy)
        self.target_net.load_state_dict(self.policy.net.state_dict())

    def parts(self) -> dict[str, Any]:
        """Add the policy's target and optimiser."""
        return super().parts() | {"target_net": self.target_net, "policy_optimizer": self.policy_optimizer}
