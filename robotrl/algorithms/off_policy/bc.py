"""Behaviour cloning: a policy imitates the actions in the data, and nothing else.

Any policy that imitates: a generative one keeps all ways in which the demonstrator acts, a Gaussian takes
their mean. Also the usual start of methods that improve a policy (`algorithm.init_from`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.config import ReplayConfig
from robotrl.algorithms.off_policy.imitation import Imitation
from robotrl.algorithms.off_policy.learner import ReplayLearner
from robotrl.core.types import Specs
from robotrl.data.replay import Transitions
from robotrl.policies.flow import FlowPolicy
from robotrl.policies.policy import HasBcLoss, Policy


@dataclass
class BCConfig(ReplayConfig):
    """Hyperparameters of behaviour cloning; it takes no environment steps."""

    offline_updates: int = 20_000
    """Updates on `data` before the first environment step; >= 0."""


class BC(ReplayLearner):
    """Imitation of the data."""

    config_class: ClassVar[type] = BCConfig
    default_policy: ClassVar[type[Policy]] = FlowPolicy
    requires: ClassVar[tuple[type, ...]] = (HasBcLoss,)
    learns_online: ClassVar[bool] = False
    default_total_steps: ClassVar[int] = 0

    def __init__(self, specs: Specs, policy: Policy, config: BCConfig, rng: torch.Generator) -> None:
        super().__init__(specs, policy, config, rng)
        self.imitation = Imitation(policy, config.learning_rate, rng)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Do one gradient step."""
        features = self.policy_features(batch.obs)
        return {"loss/imitation": self.imitation.fit(features, batch.action, batch.mask)}

    def parts(self) -> dict[str, Any]:
        """Add the optimiser."""
        return super().parts() | {"imitation": self.imitation}
