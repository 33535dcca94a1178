r"""Flow Q-learning (Park et al. 2025, arXiv:2502.02538); QC-FQL with chunks (arXiv:2507.07969).

A flow policy imitates the data; a one-step policy mu(s, z) is distilled from it and climbs the critic, so
that no gradient goes through the flow's integration:

    L_BC      = E[||v(s, x_t, t) - (a - z)||^2]
    L_distill = E[||mu(s, z) - flow_K(s, z)||^2],                 z ~ N(0, I)
    L_mu      = alpha L_distill - w E[mean_i Q_i(s, clip(mu(s, z), -1, 1))]
    y         = r + gamma (1 - terminated) mean_i Q'_i(s', clip(mu(s', z'), -1, 1))

w is 1 / mean |mean_i Q_i| (the release's option `normalize_q_loss`), so that alpha does not depend on the
size of the rewards. With `policy.horizon` h > 1, actions are chunks and the target is the h-step return:
QC-FQL.

Differences from the released code (`preset=released` gives its behaviour): w is 1 there by default; windows
in which an episode ends are padded and kept (see `qc.py`). Distances are means over the action's components,
as in the paper's code. Critics begin as SAC's do (released: `critic_init=xavier`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.config import OffPolicyConfig, Preset, refuse_compiled_release
from robotrl.algorithms.off_policy.imitation import Imitation
from robotrl.algorithms.off_policy.learner import OffPolicyAlgorithm, take_weights
from robotrl.core import checks
from robotrl.core.errors import UsageError
from robotrl.core.types import Obs, Specs
from robotrl.data.replay import Transitions
from robotrl.networks.critic import Aggregate
from robotrl.networks.flat_adam import ModuleAdam
from robotrl.networks.mlp import Activation, Norm
from robotrl.policies.decoding import DecodingPolicy
from robotrl.policies.flow import FlowPolicy
from robotrl.policies.one_step import OneStepConfig, OneStepPolicy
from robotrl.policies.policy import Policy


@dataclass
class FQLConfig(OffPolicyConfig):
    """Hyperparameters of FQL; the paper's networks have 4 layers of 512."""

    preset: Preset = Preset.CORRECTED
    """corrected or released."""
    distill_weight: float = 1.0
    """alpha of the distillation; > 0. Try 0.03 to 10: small follows the critic, large the data. With
    preset=released it goes with the size of the rewards; the paper's are 3 to 30,000."""
    one_step_hidden: list[int] | None = None
    """Widths of the one-step policy's hidden layers; null for those of the critics."""
    offline_fraction: float | None = None
    """Share of `data` in each batch once there is experience, in [0, 1]; null: all is one buffer."""
    target_aggregate: Aggregate = Aggregate.MEAN
    """min, mean or mean_minus_std of the target's critics; the paper takes min on AntMaze and Adroit."""
    activation: Activation = Activation.GELU
    """Of the critics."""
    critic_norm: Norm = Norm.POST
    """LayerNorm of the critics: none, pre (before the activation) or post (after it)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_compiled_release(self.compile, self.preset)
        checks.above(self, 0, "distill_weight")
        if self.one_step_hidden is not None:
            checks.widths(self, "one_step_hidden")


class DistilledPolicy(DecodingPolicy):
    """Acts by a one-step policy; carries the flow policy that it was distilled from.

    Args:
        flow: imitates the data.
        one_step: acts.
    """

    def __init__(self, flow: FlowPolicy, one_step: OneStepPolicy) -> None:
        super().__init__(flow.specs, list(flow.obs_groups), normalize_obs=False)
        self.flow, self.one_step = flow, one_step
        self.normalizer = flow.normalizer
        self.horizon, self.noise_dim = one_step.horizon, one_step.noise_dim

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Return clip(mu(s, z), -1, 1), shaped like the noise: see `DecodingPolicy`."""
        return self.one_step.decode(features, noise)


class FQL(OffPolicyAlgorithm):
    """A one-step policy between a flow policy's imitation and a critic."""

    config_class: ClassVar[type] = FQLConfig
    expects_prior: ClassVar[bool] = True
    default_policy: ClassVar[type[Policy]] = FlowPolicy

    policy: DistilledPolicy
    config: FQLConfig

    @classmethod
    def make_policy(
        cls, specs: Specs, base: Policy, config: FQLConfig, rng: torch.Generator
    ) -> DistilledPolicy:
        """Put a one-step policy beside the flow policy.

        Raises:
            UsageError: `base` is no flow policy.
        """
        if not isinstance(base, FlowPolicy):
            raise UsageError(
                f"FQL distils policy=flow, got {type(base).__name__}: leave policy= out, or choose another "
                "run for algorithm.init_from"
            )
        options = OneStepConfig(
            hidden=config.hidden if config.one_step_hidden is None else config.one_step_hidden,
            horizon=base.horizon,
            obs_groups=list(base.obs_groups),
            normalize_obs=False,
        )
        return DistilledPolicy(base, OneStepPolicy(specs, options, rng))

    def __init__(
        self, specs: Specs, policy: DistilledPolicy, config: FQLConfig, rng: torch.Generator
    ) -> None:
        super().__init__(specs, policy, config, rng)
        self.imitation = Imitation(policy.flow, config.learning_rate, rng)
        self.policy_optimizer = ModuleAdam(policy.one_step.parameters(), config.learning_rate)

    @torch.no_grad()
    def act(self, obs: Obs) -> Tensor:
        """Draw exploring decisions: the flow policy's until there is something to distil."""
        policy = self.policy if self.num_updates else self.policy.flow
        return policy.act(obs, rng=self.rng)

    def fit_critics(self, batch: Transitions) -> dict[str, Tensor]:
        """Do one gradient step on the critics, as released on windows without an end only."""
        if self.config.preset is Preset.RELEASED:
            batch = batch.whole()
        return super().fit_critics(batch) if len(batch.reward) else {}

    def target(self, batch: Transitions) -> Tensor:
        """R + gamma (1 - terminated) mean_i Q'_i(s', mu(s', z')), (B,)."""
        features = self.policy_features(batch.next_obs)
        action = self.policy.one_step.decode(features, self._noise(features))
        value = self.critic.value(self.critic_features(batch.next_obs), action, self.rng)
        return torch.addcmul(batch.reward, batch.discount, value)

    def update_policy(self, batch: Transitions) -> dict[str, Tensor]:
        """Let the flow imitate, and the one-step policy follow flow and critics."""
        features, config = self.policy_features(batch.obs), self.config
        imitated = self.imitation.fit(features, batch.action, batch.mask)
        noise = self._noise(features)
        flowed = self.policy.flow.decode(features, noise)
        with torch.enable_grad():
            uncut = self.policy.one_step.uncut(features, noise)
            distilled = (uncut - flowed).square().mean()
            action = uncut.clamp(-1.0, 1.0)
            values, pull = self.critic.online.with_gradient(self.critic_features(batch.obs), action.detach())
            climb = pull(torch.full_like(values, -1 / values.numel()))
            if config.preset is Preset.CORRECTED:
                climb = climb / values.mean(0).abs().mean().clamp(min=1e-6)
            # whose gradient by the action is what the critics pull
            loss = config.distill_weight * distilled + (action * climb).sum()
        self.policy_optimizer.descend(loss)
        return {
            "loss/imitation": imitated,
            "loss/distillation": distilled.detach(),
            "loss/policy": -values.mean(),
        }

    def _noise(self, features: Tensor) -> Tensor:
        return self.policy.draw_noise((len(features),), self.rng)

    def take_over(self, policy: Policy) -> None:
        """Take a trained policy for the one that imitates; the one-step policy starts anew."""
        take_weights(self.imitation.policy, policy, "FQL")

    def parts(self) -> dict[str, Any]:
        """Add the optimisers."""
        return super().parts() | {"imitation": self.imitation, "policy_optimizer": self.policy_optimizer}
