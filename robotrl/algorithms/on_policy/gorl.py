r"""GoRL (2025, arXiv:2512.02581v3): PPO moves a latent, a generative decoder makes actions of it.

    z ~ pi_theta(.|s),  a = g_phi(s, z)                        the action and density of PPO are those of z
    stage 0    g(s, z) = clip(z, -1, 1): plain PPO
    refresh    D = {(s, a)} of pi_theta and g_phi;   phi = argmin E_D[L_BC(g(s, eps), a)],  eps ~ N(0, I)
    stage k    theta, critic and observation statistics begin anew, phi is frozen;
               L = L_PPO + c E[mean_j mu_j(s)^2 + mean_j sigma_j(s)^2]

The decoder is fitted from noise, never from the encoder's z, so that the prior N(0, I), where a new encoder
begins, decodes to what the one before it did. Rollouts for D are environment steps as all others are: each
stage's share of the training includes its own (the released code counts none of them).

Differences: actions are cut at +-1 instead of squashed by tanh, and the decoder imitates them as executed,
because our decoders work on [-1, 1]. The encoder is PPO's own policy (by default one deviation per actuator,
1 at first: the prior; the paper's is a softplus of the state), so that stage 0 is PPO bit for bit, and the
pull towards the prior begins with the first decoder. A stage hands over its last encoder: returns of whole
evaluations, by which the paper picks the best, are not known here. Restarted networks begin with the weights
that the first stage began with. The decoder's loss draws one (t, eps) per action and epoch (released: 8), in
batches of 1,024 instead of 8,192: there are fewer data, on which the large ones stop short of the minimum.
A flow sees the time as a number, diffusion as eight learned Fourier features (released: both as eight sines
and cosines), and diffusion takes all of its DDIM steps (released: 9 of 10). PPO's own defaults stay, here
and in the controls: decoder.kind=gaussian (restarts alone) and algorithm=ppo.
There is no preset of the released form: with rollouts that are not counted it compares with nothing.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.on_policy.decoder import DecoderConfig, fit_decoder, make_decoder
from robotrl.algorithms.on_policy.ppo import PPO, PPOConfig
from robotrl.core import checks
from robotrl.core.errors import UsageError
from robotrl.core.types import Specs
from robotrl.data.rollout import Rollout
from robotrl.policies.distributions import ActionDistribution, DiagonalGaussian
from robotrl.policies.latent import LatentPolicy
from robotrl.policies.policy import Policy, StochasticPolicy


@dataclass
class GoRLConfig(PPOConfig):
    """Hyperparameters of GoRL; those of PPO hold in every stage."""

    stages: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0, 1.0])
    """Lengths of the stages, relative to each other; the paper's are 2, 2, 1, 1 in 180 million steps."""
    data_share: float = 0.025
    """Share of total_steps, at the end of each stage but the last, that is the next decoder's data; > 0."""
    prior_coef: float = 1e-3
    """c, strength of the pull towards the prior from the first decoder on; >= 0."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Network and fit of the decoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.above(self, 0, "data_share")
        checks.at_least(self, 0, "prior_coef")
        if not self.stages or not all(0 < length < float("inf") for length in self.stages):
            raise ValueError(f"stages: give at least one length, each above 0, got {self.stages}")
        shortest = min(self.stages) / sum(self.stages)
        if len(self.stages) > 1 and self.data_share >= shortest:
            raise ValueError(
                f"data_share {self.data_share} must be below the share of the shortest stage, {shortest:g}"
            )


class GoRL(PPO):
    """PPO in stages, between which imitation renews the decoder.

    Attributes:
        stage: which, from 0.
        collecting: whether rollouts are the next decoder's data.
    """

    config_class: ClassVar[type] = GoRLConfig

    config: GoRLConfig
    policy: LatentPolicy

    @classmethod
    def make_policy(
        cls, specs: Specs, base: Policy, config: GoRLConfig, rng: torch.Generator
    ) -> LatentPolicy:
        """Put a decoder behind the policy, which becomes the encoder.

        Raises:
            UsageError: it is no Gaussian over single control steps, or a squashed one.
        """
        if not isinstance(base, StochasticPolicy) or not isinstance(
            base.head(torch.zeros(1, base.obs_dim)), DiagonalGaussian
        ):
            raise UsageError(
                f"GoRL needs a Gaussian that is not squashed as its encoder, got {type(base).__name__}: "
                "leave policy= out or give policy=gaussian"
            )
        super().make_policy(specs, base, config, rng)
        # its weights decide nothing before the first fit: `rng` stays where PPO's would be
        unused = torch.Generator().manual_seed(0)
        normalize = base.normalizer is not None
        decoder = make_decoder(specs, list(base.obs_groups), normalize, config.decoder, unused)
        return LatentPolicy(base, decoder)

    def __init__(self, specs: Specs, policy: LatentPolicy, config: GoRLConfig, rng: torch.Generator) -> None:
        super().__init__(specs, policy, config, rng)
        self.stage, self.collecting = 0, False
        self._obs, self._actions = list[Tensor](), list[Tensor]()
        self._start = copy.deepcopy(super().state_dict())
        self._ends = [end / sum(config.stages) for end in itertools.accumulate(config.stages)]

    def check_length(self, num_rollouts: float) -> None:
        """Refuse fewer rollouts than give each stage, and each decoder's data, one of their own."""
        if len(self._ends) == 1:
            return
        starts = [0.0, *self._ends]
        learning = [end - start - self.config.data_share for start, end in itertools.pairwise(starts[:-1])]
        shortest = min(*learning, self.config.data_share, 1.0 - starts[-2])
        needed = math.ceil(1.0 / shortest - 1e-9)
        if num_rollouts < needed:
            raise UsageError(
                f"total_steps make {num_rollouts:g} rollouts (algorithm.num_steps x num_envs steps each); "
                f"it takes {needed} for each of the {len(self._ends)} stages and each decoder's data to have "
                "one: raise total_steps, lower num_envs or give fewer algorithm.stages"
            )

    def update(self, batch: Rollout, progress: float = 0.0) -> dict[str, Tensor]:
        """Learn from one rollout, or keep it for the decoder.

        Args:
            batch: T steps of N environments.
            progress: fraction of the training that is done, the rollout included.

        Returns:
            Named scalars.
        """
        metrics = {"policy/stage": torch.tensor(float(self.stage))}
        start, end = [0.0, *self._ends][self.stage], self._ends[self.stage]
        if self.collecting:
            self._keep(batch)
            if progress >= end and sum(map(len, self._obs)) > 1:
                metrics |= self._refresh()
            return metrics
        last = self.stage == len(self._ends) - 1
        learned = end if last else end - self.config.data_share
        self.collecting = not last and progress >= learned
        return metrics | super().update(batch, min(1.0, (progress - start) / (learned - start)))

    def regularization(self, distribution: ActionDistribution) -> Tensor | float:
        """Return c (mean mu^2 + mean sigma^2), nothing while there is no decoder."""
        if self.stage == 0:
            return 0.0
        assert isinstance(distribution, DiagonalGaussian)
        variance = (2.0 * distribution.log_std).exp()
        return self.config.prior_coef * (distribution.mean.square().mean() + variance.mean())

    def _keep(self, batch: Rollout) -> None:
        """Remember where the valid steps were, and the actions that were executed there."""
        obs = {group: values[batch.valid] for group, values in batch.obs.items()}
        self._obs.append(self.policy.flatten(obs))
        self._actions.append(self.policy.to_bounds(batch.action[batch.valid], obs))

    def _refresh(self) -> dict[str, Tensor]:
        """Fit a new decoder to the data, then begin anew behind it."""
        groups, normalize = list(self.policy.obs_groups), self.policy.normalizer is not None
        decoder = make_decoder(self.specs, groups, normalize, self.config.decoder, self.rng)
        flat, actions = torch.cat(self._obs), torch.cat(self._actions)
        metrics = fit_decoder(decoder, flat, actions, self.config.decoder, self.rng)
        super().load_state_dict(self._start | {"rng": self.rng.get_state()})
        self.policy.adopt(decoder)
        self._obs, self._actions = [], []
        self.stage, self.collecting = self.stage + 1, False
        return metrics | {"policy/decoder_data": torch.tensor(float(len(flat)))}

    def state_dict(self) -> dict[str, Any]:
        """Add the stage, the data collected so far and what a restart begins with."""
        return super().state_dict() | {
            "stage": self.stage,
            "collecting": self.collecting,
            "data": {"obs": self._obs, "action": self._actions},
            "start": self._start,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state)
        self.stage, self.collecting = state["stage"], state["collecting"]
        self._obs, self._actions = list(state["data"]["obs"]), list(state["data"]["action"])
        self._start = state["start"]
