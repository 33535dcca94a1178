r"""RLPD: SAC that learns efficiently from prior data (Ball et al. 2023, arXiv:2302.02948).

SAC (see `sac.py`) with four changes: each batch is half prior data and half experience, drawn
symmetrically; ten critics with LayerNorm, which bounds what they say of actions nobody took; the target is
the smaller of two critics drawn anew for each update, y = r + gamma (1 - terminated) min_{i in Z} Q'_i,
|Z| = 2; and 20 critic updates per environment step with one of policy and temperature after the last of
them. The policy climbs the mean of all critics.

Differences: the entropy is left out of the target by default, as the paper does where rewards are sparse
(`backup_entropy=true` for locomotion). The paper's target entropy is -A / 2. The policy
begins as `sac.py`'s, with log sigma in [-5, 2] (released: Xavier weights, [-20, 2]).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robotrl.algorithms.off_policy.sac import SAC, SACConfig
from robotrl.networks.critic import Aggregate
from robotrl.networks.mlp import Init, Norm


@dataclass
class RLPDConfig(SACConfig):
    """Hyperparameters of RLPD; the paper's are replay_ratio 20 with policy_delay 20."""

    replay_ratio: float = 20.0
    """Critic updates per environment transition collected; > 0."""
    policy_delay: int = 20
    """Critic updates per policy update; >= 1."""
    learning_rate: float = 3e-4
    """Of Adam, for policy, critics and temperature; > 0."""
    tau: float = 0.005
    """Share of the critics that moves into their targets at each update; in (0, 1]."""
    initial_alpha: float = 1.0
    """Temperature at the start; > 0."""
    target_entropy_per_action: float = -0.5
    """Target entropy divided by the action dimension, nats."""
    backup_entropy: bool = False
    """Whether the target counts the entropy of the next action; it hurts where rewards are sparse."""
    policy_aggregate: Aggregate = Aggregate.MEAN
    """min or mean of all critics, which the policy climbs."""
    num_critics: int = 10
    """Members of the critic ensemble; >= 1."""
    target_members: int | None = 2
    """Critics drawn for each target; null for all of them."""
    critic_norm: Norm = Norm.PRE
    """LayerNorm of the critics: none, pre (before the activation) or post (after it)."""
    critic_init: Init = Init.XAVIER
    """How the critics' weights are drawn."""


class RLPD(SAC):
    """SAC with prior data, many critics and many updates."""

    config_class: ClassVar[type] = RLPDConfig
    expects_prior: ClassVar[bool] = True
    default_num_envs: ClassVar[int] = 1

    config: RLPDConfig
