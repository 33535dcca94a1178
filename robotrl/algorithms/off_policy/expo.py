r"""EXPO: a generative policy, improved by small edits and by choice (Dong et al. 2025, arXiv:2507.07986).

A base policy imitates all actions in the data. It is never moved by the critic; instead, whenever an action
is needed, N samples of it and n edits of them are proposed and the critic chooses ("on-the-fly policy"):

    a*     = argmax_k min_{i in S} Q'_i(s, a_k),  {a_k} = {a_1 .. a_N} u {clip(a_j + beta e(s, a_j))}
    y      = r + gamma (1 - terminated) min_{i in S'} Q'_i(s', a*(s'))
    L_base = L_BC(a|s),                                    all data
    L_edit = E[alpha log pi(e|s, a_b) - mean_i Q_i(s, clip(a_b + beta e))],  a_b ~ base(.|s)
    L_alpha = -E[log alpha (log pi(e|s, a_b) + target_entropy)]

What acts is the exponential average of the base, with the target critics; targets are made with the base
itself. Acting, all critics choose, by mean - pessimism std of what they say, so that the decision is a
function of observation and noise and can be exported.

Differences from the released code, each of them a correction (`preset=released` gives its behaviour):
- the entropy is that of the unscaled edit e. The released code measures the scaled edit's, whose largest
  possible value A ln(2 beta) lies below the target -A/2 for beta < 0.303, so that alpha grows without limit
  and the edits become uniform jitter, whatever the critic says;
- edited candidates are cut to [-1, 1], so that nothing outside of the action range is chosen;
- S chooses and a disjoint S' values, which takes away most of the bias of choosing by what one is valued by;
- edits are learned at samples of the base, where they are used, not at the data's actions.
That the release takes time-outs of robomimic for end states is no part of it: there the environment says so.

Other than there in either preset: acting, the released code asks a random pair of critics (`released`: the
least of all of them); it starts with initial_alpha 1, has critics and edit policy of 3 x 256, and decays
weights (1e-4) and learning rate of the base.

`edit=jitter` is the control that every use of EXPO needs: uniform edits of the same size, nothing learned.
"""

from __future__ import annotations

import copy
import enum
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.config import OffPolicyConfig, Preset
from robotrl.algorithms.off_policy.critic import Critic, make_critics
from robotrl.algorithms.off_policy.edit_learner import EditLearner
from robotrl.algorithms.off_policy.imitation import Imitation
from robotrl.algorithms.off_policy.learner import OffPolicyAlgorithm, take_weights
from robotrl.algorithms.off_policy.temperature import Temperature
from robotrl.core import checks
from robotrl.core.types import Specs
from robotrl.data.replay import Transitions
from robotrl.networks.critic import Aggregate
from robotrl.networks.ema import Ema
from robotrl.networks.mlp import Activation, Init, Norm
from robotrl.policies.candidates import CandidatePolicy
from robotrl.policies.diffusion import DiffusionPolicy
from robotrl.policies.edit import Edit, Jitter
from robotrl.policies.policy import HasLatent, Policy
from robotrl.policies.sampled_gaussian import proposer


class EditKind(enum.Enum):
    """What edits the base's samples."""

    LEARNED = "learned"
    """A small policy that climbs the critics."""
    JITTER = "jitter"
    """Uniform noise of the same size: the control."""


@dataclass
class EXPOConfig(OffPolicyConfig):
    """Hyperparameters of EXPO; the paper's replay_ratio is 20 with policy_delay 20."""

    preset: Preset = Preset.CORRECTED
    """corrected or released."""
    edit: EditKind = EditKind.LEARNED
    """learned, or jitter: the control without an edit policy."""
    edit_scale: float = 0.1
    """beta, the largest change of an action, in units of the action range's half width; in (0, 2]."""
    num_samples: int = 8
    """Samples of the base per decision; >= 1."""
    num_edits: int = 8
    """Of those, how many are edited; in [0, num_samples]."""
    edit_hidden: list[int] | None = None
    """Widths of the edit policy's hidden layers; null for those of the critics."""
    initial_alpha: float = 0.1
    """Temperature of the edit policy at the start; > 0."""
    target_entropy_per_action: float = -0.5
    """Target entropy of the edits divided by the action dimension, nats."""
    base_ema: float = 0.001
    """Share of the base that moves into the one that acts, at each of its updates; in (0, 1]."""
    replay_ratio: float = 2.0
    """Critic updates per environment transition collected; > 0."""
    policy_delay: int = 2
    """Critic updates per update of base, edit policy and temperature; >= 1."""
    num_critics: int = 10
    """Members of the critic ensemble; >= 1."""
    target_members: int | None = 2
    """Critics drawn to choose, and as many others to value; null for all of them."""
    critic_norm: Norm = Norm.PRE
    """LayerNorm of the critics: none, pre (before the activation) or post (after it)."""
    critic_init: Init = Init.XAVIER
    """How the critics' weights are drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.within(self, "(0, 2]", "edit_scale")
        checks.within(self, "(0, 1]", "base_ema")
        checks.at_least(self, 1, "num_samples")
        checks.at_least(self, 0, "num_edits")
        checks.above(self, 0, "initial_alpha")
        checks.finite(self, "target_entropy_per_action")
        if self.edit is EditKind.JITTER and not self.num_edits:
            raise ValueError("num_edits must be at least 1 with edit=jitter, got 0")
        if self.num_edits > self.num_samples:
            raise ValueError(f"num_edits {self.num_edits} is above num_samples {self.num_samples}")
        if self.edit_hidden is not None:
            checks.widths(self, "edit_hidden")
        if self.target_members is not None and 2 * self.target_members > self.num_critics:
            raise ValueError(
                f"num_critics {self.num_critics} must be twice target_members {self.target_members}: "
                "some choose, others value"
            )


class EXPO(OffPolicyAlgorithm):
    """On-the-fly policy extraction from a base policy by edits and a critic's choice."""

    config_class: ClassVar[type] = EXPOConfig
    expects_prior: ClassVar[bool] = True
    default_policy: ClassVar[type[Policy]] = DiffusionPolicy

    policy: CandidatePolicy
    config: EXPOConfig

    @classmethod
    def make_policy(
        cls, specs: Specs, base: Policy, config: EXPOConfig, rng: torch.Generator
    ) -> CandidatePolicy:
        """Put critics and edits around the base."""
        base = proposer(base, cls.__name__)
        critics = make_critics(base.obs_dim, base.chunk_dim, config, rng)
        return CandidatePolicy(
            base,
            critics,
            Aggregate.MEAN_MINUS_STD if config.preset is Preset.CORRECTED else Aggregate.MIN,
            config.pessimism,
            config.num_samples,
            _make_edit(base, config, rng) if config.num_edits else None,
            config.num_edits,
        )

    def __init__(
        self, specs: Specs, policy: CandidatePolicy, config: EXPOConfig, rng: torch.Generator
    ) -> None:
        # what acts are the target critics and an average of the base
        critic = Critic(copy.deepcopy(policy.critics), config, target=policy.critics)
        super().__init__(specs, policy, config, rng, critic)
        self.imitation = Imitation(policy.base, config.learning_rate, rng)
        self.average = Ema(policy.base, config.base_ema, shared=policy.normalizer)
        policy.base = self.average.module
        self.edits: EditLearner | None = None
        if not isinstance(policy.edit, Edit):
            return
        target_entropy = config.target_entropy_per_action * policy.chunk_dim
        if config.preset is Preset.RELEASED:
            # of the scaled edit: log pi(beta e) = log pi(e) - A ln beta
            target_entropy -= policy.chunk_dim * math.log(config.edit_scale)
        temperature = Temperature(config.initial_alpha, target_entropy, config.learning_rate)
        self.edits = EditLearner(policy.edit, temperature, config.learning_rate)

    def target(self, batch: Transitions) -> Tensor:
        """R + gamma (1 - terminated) min_{i in S'} Q'_i(s', a*(s')), (B,)."""
        features = self.policy_features(batch.next_obs)
        chosen_by, valued_by = self._draw_critics()

        def score(features: Tensor, candidates: Tensor) -> Tensor:
            return self.critic.aggregate(self.critic.target.candidates(features, candidates, chosen_by))

        noise = self.policy.draw_noise((len(features),), self.rng)
        action = self.policy.improve(features, noise, self.imitation.policy, score).action
        value = self.critic.aggregate(self.critic.target(features, action, valued_by))
        return torch.addcmul(batch.reward, batch.discount, value)

    def _draw_critics(self) -> tuple[Tensor | None, Tensor | None]:
        """Draw the critics that choose and those that value."""
        if self.config.preset is Preset.RELEASED:
            return self.critic.draw_members(self.rng)[0], self.critic.draw_members(self.rng)[0]
        chosen_by, valued_by = self.critic.draw_members(self.rng, sets=2)
        return chosen_by, valued_by

    def update_policy(self, batch: Transitions) -> dict[str, Tensor]:
        """Let the base imitate, its average follow, and the edits climb the critics."""
        features = self.policy_features(batch.obs)
        metrics = {"loss/imitation": self.imitation.fit(features, batch.action, batch.mask)}
        self.average.update()
        if self.edits is None:
            return metrics
        action = batch.action
        if self.config.preset is Preset.CORRECTED:
            base = self.imitation.policy
            assert isinstance(base, HasLatent)
            action = base.decode(features, base.draw_noise((len(features),), self.rng))
        return metrics | self.edits.fit(features, action, self.critic, features, self.rng)

    def take_over(self, policy: Policy) -> None:
        """Take a trained policy for the base."""
        base = proposer(policy, "EXPO")
        take_weights(self.imitation.policy, base, "EXPO")
        take_weights(self.average.module, base, "EXPO")

    def parts(self) -> dict[str, Any]:
        """Add the base that learns and what learns the edits."""
        found = super().parts() | {"imitation": self.imitation}
        return found if self.edits is None else found | {"edits": self.edits}


def _make_edit(base: Policy, config: EXPOConfig, rng: torch.Generator) -> Edit | Jitter:
    if config.edit is EditKind.JITTER:
        return Jitter(config.edit_scale)
    hidden = config.hidden if config.edit_hidden is None else config.edit_hidden
    cut = config.preset is Preset.CORRECTED
    return Edit(
        base.obs_dim, base.chunk_dim, hidden, Activation.RELU, config.edit_scale, Init.XAVIER, rng, cut
    )
