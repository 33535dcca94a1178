r"""DSRL: steer a frozen generative policy by its noise (Wagenmaker et al. 2025, arXiv:2506.15799).

With the base's map a = dp(s, w) from noise w to actions, the noise-aliased form (DSRL-NA):

    y       = r + gamma (1 - terminated) (min_i Q'_i(s', dp(s', w')) - alpha log pi(w'|s')),  w' ~ pi(.|s')
    L_Q     = sum_i E[(Q_i(s, a) - y)^2]
    L_W     = sum_j E[(W_j(s, w) - min_i Q_i(s, dp(s, w)))^2],        w ~ N(0, I)
    L_pi    = E[alpha log pi(w|s) - min_j W_j(s, w)],                 w ~ pi(.|s)
    L_alpha = -E[log alpha (log pi(w|s) + target_entropy)]

pi(w|s) = b tanh of a Gaussian. Any data can be learned from, as the critic Q sees actions; the critic W,
which the policy climbs, never needs a gradient through the base.

Differences: W is fitted to the same aggregate of the target critics that makes Q's target; there are
`noise_updates` of it per policy update (the release does 10 after 20 to 30 critic updates). Entropies are
those of tanh before its scale b.

Corrections of the released code (`preset=released` gives its behaviour): the policy's noise reaches b, which
the release takes as an option and ignores, so that it is 1; w in L_W is cut to [-b, b], where the policy
acts, while the release draws all of N(0, I).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.config import Preset
from robotrl.algorithms.off_policy.critic import Critic, make_critics
from robotrl.algorithms.off_policy.steering import Steering, SteeringConfig
from robotrl.core import checks
from robotrl.core.types import Obs, Specs
from robotrl.data.replay import Transitions
from robotrl.policies.steered import SteeredPolicy


@dataclass
class DSRLConfig(SteeringConfig):
    """Hyperparameters of DSRL; the base comes from `init_from`."""

    preset: Preset = Preset.CORRECTED
    """corrected or released; released, noise_magnitude counts as 1."""
    noise_updates: int = 1
    """Updates of the noise's critic per policy update; >= 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 1, "noise_updates")

    @property
    def reach(self) -> float:
        """Largest noise that the policy chooses, b or, as released, 1."""
        return 1.0 if self.preset is Preset.RELEASED else self.noise_magnitude


class DSRL(Steering):
    """SAC over the noise of a frozen policy, with a critic over actions beside the one over noise."""

    config_class: ClassVar[type] = DSRLConfig

    config: DSRLConfig

    def __init__(self, specs: Specs, policy: SteeredPolicy, config: DSRLConfig, rng: torch.Generator) -> None:
        super().__init__(specs, policy, config, rng)
        self.noise_critic = Critic(make_critics(policy.obs_dim, policy.chunk_dim, config, rng), config)

    def target(self, batch: Transitions) -> Tensor:
        """R + gamma (1 - terminated) (min_i Q'_i(s', dp(s', w')) - alpha log pi(w'|s')), (B,)."""
        features = self.policy_features(batch.next_obs)
        draw, _ = self.actor.draw(features, self.rng)
        value = self._value(batch.next_obs, self.decode(features, draw.action))
        if self.config.backup_entropy:
            value = value - self.temperature.alpha * draw.log_prob
        return torch.addcmul(batch.reward, batch.discount, value)

    def _value(self, obs: Obs, action: Tensor) -> Tensor:
        return self.critic.value(self.critic_features(obs), action, self.rng)

    def update_policy(self, batch: Transitions) -> dict[str, Tensor]:
        """Fit the noise's critic, then climb it."""
        features, magnitude = self.policy_features(batch.obs), self.policy.actor.magnitude
        for _ in range(self.config.noise_updates):
            noise = torch.empty_like(batch.action).normal_(generator=self.rng)
            if self.config.preset is Preset.CORRECTED:
                noise.clamp_(-magnitude, magnitude)
            target = self._value(batch.obs, self.policy.decode(features, noise))
            fitted = self.noise_critic.fit(features, noise / magnitude, target)
        climbed = self.climb(self.noise_critic, features, features)
        return {"loss/noise_value": fitted["loss/value"]} | climbed

    def parts(self) -> dict[str, Any]:
        """Add the noise's critic."""
        return super().parts() | {"noise_critic": self.noise_critic}
