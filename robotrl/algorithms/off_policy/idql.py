r"""Implicit diffusion Q-learning (Hansen-Estruch et al. 2023, arXiv:2304.10573); IFQL with a flow policy.

Implicit Q-learning (Kostrikov et al. 2021, arXiv:2110.06169) learns values without asking about actions that
are not in the data; a policy that only imitates proposes N actions, and the critic chooses:

    L_V  = E[L_tau(min_i Q'_i(s, a) - V(s))],  L_tau(u) = |tau - 1(u < 0)| u^2
    L_Q  = sum_i E[(Q_i(s, a) - (r + gamma (1 - terminated) V(s')))^2]
    L_pi = L_BC(a|s)
    a*   = argmax_k min_i Q'_i(s, a_k),  a_1 .. a_N ~ pi(.|s)

Differences from the released code (`preset=released` gives its behaviour): the policy goes on imitating while
there is experience (the released fine-tuning loop never trains it, although an option says so: it is as it
was at the end of `offline_updates`, or in `init_from`, statistics of observations included); it acts by its
own weights, not by an exponential average of them. In both, an exploring action is drawn by the softmax of
the values at `temperature` (released: with weight tau where Q > V, else 1 - tau), and the networks have
neither dropout nor weight decay, a constant learning rate (released: the policy's follows a cosine) and
begin as SAC's do (released: `critic_init=xavier`); the default policy is EXPO's (released: 5 steps, mish,
`time_dim=64`). IFQL as released with FQL and QAM does train its policy on: that is `policy=flow`, there with
expectile 0.9, 32 samples and data and experience in one buffer (`offline_fraction=null`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.config import OffPolicyConfig, Preset, refuse_compiled_release
from robotrl.algorithms.off_policy.critic import Critic, make_critics
from robotrl.algorithms.off_policy.imitation import Imitation
from robotrl.algorithms.off_policy.learner import OffPolicyAlgorithm, take_weights
from robotrl.core import checks
from robotrl.core.types import Obs, Specs
from robotrl.data.replay import Transitions
from robotrl.networks.ema import Ema
from robotrl.networks.flat_adam import FlatAdam
from robotrl.networks.mlp import MLP, Init
from robotrl.policies.candidates import CandidatePolicy
from robotrl.policies.diffusion import DiffusionPolicy
from robotrl.policies.policy import Policy
from robotrl.policies.sampled_gaussian import proposer

# share of the policy that moves into the released one that acts, at each update
_RELEASED_EMA = 0.001


@dataclass
class IDQLConfig(OffPolicyConfig):
    """Hyperparameters of IDQL."""

    preset: Preset = Preset.CORRECTED
    """corrected or released."""
    expectile: float = 0.7
    """tau of the value's loss; in (0, 1), towards 1 for the best action in the data."""
    num_samples: int = 64
    """N, samples of the policy per decision; >= 1."""
    temperature: float = 0.0
    """Of the softmax of values by which an exploring action is drawn; >= 0, and 0 takes the best."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_compiled_release(self.compile, self.preset)
        checks.within(self, "(0, 1)", "expectile")
        checks.at_least(self, 1, "num_samples")
        checks.at_least(self, 0, "temperature")
        if self.preset is Preset.RELEASED and not self.offline_updates and self.init_from is None:
            raise ValueError(
                "preset=released never trains its policy on experience: give offline_updates (above 0) or "
                "init_from"
            )


class IDQL(OffPolicyAlgorithm):
    """IQL's critics choosing among the samples of an imitating policy."""

    config_class: ClassVar[type] = IDQLConfig
    expects_prior: ClassVar[bool] = True
    default_policy: ClassVar[type[Policy]] = DiffusionPolicy

    policy: CandidatePolicy
    config: IDQLConfig

    @classmethod
    def make_policy(
        cls, specs: Specs, base: Policy, config: IDQLConfig, rng: torch.Generator
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

    def __init__(
        self, specs: Specs, policy: CandidatePolicy, config: IDQLConfig, rng: torch.Generator
    ) -> None:
        # the target critics choose
        critic = Critic(copy.deepcopy(policy.critics), config, target=policy.critics)
        super().__init__(specs, policy, config, rng, critic)
        self.imitation = Imitation(policy.base, config.learning_rate, rng)
        self.average: Ema[Policy] | None = None
        if config.preset is Preset.RELEASED:
            self.average = Ema(policy.base, _RELEASED_EMA, shared=policy.normalizer)
            policy.base = self.average.module
        self.value = MLP(policy.obs_dim, config.hidden, 1, config.activation, Init.UNIFORM, rng)
        self.value_optimizer = FlatAdam(self.value.flat, config.learning_rate)
        self._value_grad = torch.empty_like(self.value.flat)

    def observe(self, obs: Obs) -> None:
        """Merge newly collected observations into the normaliser, as released while the policy learns."""
        if self.average is None or self.num_updates < self.config.offline_updates:
            super().observe(obs)

    @torch.no_grad()
    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Do a gradient step on the value, then on critics and policy."""
        features = self.policy_features(batch.obs)
        tape = self.value.run(features)
        error = self.critic.value(features, batch.action, self.rng) - tape[-1].squeeze(1)
        loss, grad = expectile_loss(error, self.config.expectile)
        self.value.backprop(tape, -grad.unsqueeze(1) / len(grad), self._value_grad, wants_input=False)
        self.value_optimizer.step(self._value_grad)
        return super().update(batch) | {"loss/expectile": loss.mean()}

    def target(self, batch: Transitions) -> Tensor:
        """R + gamma (1 - terminated) V(s'), (B,)."""
        value = self.value.run(self.policy_features(batch.next_obs))[-1].squeeze(1)
        return torch.addcmul(batch.reward, batch.discount, value)

    def update_policy(self, batch: Transitions) -> dict[str, Tensor]:
        """Imitate the batch's actions, as released those of the data only."""
        if self.average is not None and self.num_updates > self.config.offline_updates:
            return {}
        features = self.policy_features(batch.obs)
        loss = self.imitation.fit(features, batch.action, batch.mask)
        if self.average is not None:
            self.average.update()
        return {"loss/imitation": loss}

    def take_over(self, policy: Policy) -> None:
        """Take a trained policy for the one that imitates."""
        base = proposer(policy, "IDQL")
        take_weights(self.imitation.policy, base, "IDQL")
        take_weights(self.policy.base, base, "IDQL")

    def parts(self) -> dict[str, Any]:
        """Add the value network and the optimisers."""
        return super().parts() | {
            "imitation": self.imitation,
            "value": self.value,
            "value_optimizer": self.value_optimizer,
        }


def expectile_loss(error: Tensor, expectile: float) -> tuple[Tensor, Tensor]:
    """Return |tau - 1(u < 0)| u^2 of errors u, (B,), and its derivative."""
    weight = torch.where(error < 0, 1.0 - expectile, expectile)
    return weight * error.square(), 2.0 * weight * error
