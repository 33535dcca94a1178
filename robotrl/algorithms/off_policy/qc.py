r"""Q-chunking: best-of-N over action chunks (Li et al. 2025, arXiv:2507.07969); BFN with chunks of one step.

Policy and critic see chunks of h actions, which are executed open loop (`policy.horizon`). The policy only
imitates the data; the critic chooses among N of its samples, in acting and in the target:

    a*  = argmax_k mean_i Q_i(s, a_k),  a_1 .. a_N ~ pi(.|s)
    y   = sum_{i<h} gamma^i r_{t+i} + gamma^h (1 - terminated) mean_i Q'_i(s_{t+h}, a*(s_{t+h}))
    L_pi = L_BC(a_t .. a_{t+h-1} | s_t)

The h-step return needs no correction: all its actions are those that Q is asked about. The online critics
choose, their targets value. Data and experience are one buffer, as in the paper (`offline_fraction=0.5`
draws half from each). `policy.horizon=1` with `num_samples=4` is the paper's BFN.

Difference from the released code, a correction (`preset=released` gives its behaviour): a window in which the
episode ends is padded and kept (the sum stops at the end, and a time limit bootstraps from the last
observation); the released critics leave it out, so that they see the end in one of the h windows that reach
it, the whole one. In both, critics begin as SAC's do (released: `critic_init=xavier`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.config import OffPolicyConfig, Preset, refuse_compiled_release
from robotrl.algorithms.off_policy.critic import Critic, make_critics
from robotrl.algorithms.off_policy.imitation import Imitation
from robotrl.algorithms.off_policy.learner import OffPolicyAlgorithm, take_weights
from robotrl.core import checks
from robotrl.core.types import Specs
from robotrl.data.replay import Transitions
from robotrl.networks.critic import Aggregate
from robotrl.networks.mlp import Activation, Norm
from robotrl.policies.candidates import CandidatePolicy
from robotrl.policies.flow import FlowPolicy
from robotrl.policies.policy import Policy
from robotrl.policies.sampled_gaussian import proposer


@dataclass
class QCConfig(OffPolicyConfig):
    """Hyperparameters of Q-chunking; the paper's networks have 4 layers of 512."""

    preset: Preset = Preset.CORRECTED
    """corrected or released; the same with chunks of one step."""
    num_samples: int = 32
    """N, samples of the policy per decision; >= 1."""
    temperature: float = 0.0
    """Of the softmax of values by which an exploring action is drawn; >= 0, and 0 takes the best."""
    offline_fraction: float | None = None
    """Share of `data` in each batch once there is experience, in [0, 1]; null: all is one buffer."""
    target_aggregate: Aggregate = Aggregate.MEAN
    """min, mean or mean_minus_std of the critics."""
    activation: Activation = Activation.GELU
    """Of the critics."""
    critic_norm: Norm = Norm.POST
    """LayerNorm of the critics: none, pre (before the activation) or post (after it)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_compiled_release(self.compile, self.preset)
        checks.at_least(self, 1, "num_samples")
        checks.at_least(self, 0, "temperature")


class QC(OffPolicyAlgorithm):
    """Best-of-N Q-learning over the chunks of an imitating policy."""

    config_class: ClassVar[type] = QCConfig
    expects_prior: ClassVar[bool] = True
    default_policy: ClassVar[type[Policy]] = FlowPolicy

    policy: CandidatePolicy
    config: QCConfig

    @classmethod
    def make_policy(
        cls, specs: Specs, base: Policy, config: QCConfig, rng: torch.Generator
    ) -> CandidatePolicy:
        """Put the critics around the policy that imitates."""
        base = proposer(base, cls.__name__)
        critics = make_critics(base.obs_dim, base.chunk_dim, config, rng)
        return CandidatePolicy(
            base,
            critics,
            config.target_aggregate,
            config.pessimism,
            config.num_samples,
            temperature=config.temperature,
        )

    def __init__(self, specs: Specs, policy: CandidatePolicy, config: QCConfig, rng: torch.Generator) -> None:
        super().__init__(specs, policy, config, rng, Critic(policy.critics, config))
        self.imitation = Imitation(policy.base, config.learning_rate, rng)

    def fit_critics(self, batch: Transitions) -> dict[str, Tensor]:
        """Do one gradient step on the critics, as released on windows without an end only."""
        if self.config.preset is Preset.RELEASED:
            batch = batch.whole()
        return super().fit_critics(batch) if len(batch.reward) else {}

    def target(self, batch: Transitions) -> Tensor:
        """R_h + gamma^h (1 - terminated) Q'(s_{t+h}, a*), (B,)."""
        features = self.policy_features(batch.next_obs)
        action = self.policy.improve(features, self.policy.draw_noise((len(features),), self.rng)).action
        value = self.critic.value(features, action, self.rng)
        return torch.addcmul(batch.reward, batch.discount, value)

    def update_policy(self, batch: Transitions) -> dict[str, Tensor]:
        """Imitate the batch's chunks, as far as they went."""
        features = self.policy_features(batch.obs)
        return {"loss/imitation": self.imitation.fit(features, batch.action, batch.mask)}

    def take_over(self, policy: Policy) -> None:
        """Take a trained policy for the one that imitates."""
        take_weights(self.imitation.policy, proposer(policy, "QC"), "QC")

    def parts(self) -> dict[str, Any]:
        """Add the imitation's optimiser."""
        return super().parts() | {"imitation": self.imitation}
