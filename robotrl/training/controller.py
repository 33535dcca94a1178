"""What drives simulations: a policy, a scripted expert, random actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robotrl.core.config import learner_seed
from robotrl.core.types import Obs
from robotrl.policies.policy import Policy


@dataclass(frozen=True)
class Controller:
    """What drives simulations: decisions that are executed open loop, see `ActionQueue`.

    Attributes:
        decide: observation groups of n simulations, each (n, D), to decisions (n, h*A) in [-1, 1].
        horizon: h, control steps of a decision.
    """

    decide: Callable[[Obs], Tensor]
    horizon: int = 1


def deterministic(policy: Policy, seed: int = 0) -> Controller:
    """Return what the policy does when it does not explore.

    Args:
        policy: decides.
        seed: of the noise that it may decide from.
    """
    rng = torch.Generator().manual_seed(learner_seed(seed))  # not the environments' numbers again

    def decide(obs: Obs) -> Tensor:
        with torch.no_grad():
            return policy.act(obs, deterministic=True, rng=rng)

    return Controller(decide, policy.horizon)
