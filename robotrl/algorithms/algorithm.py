"""What every algorithm is: networks, optimisers and an update rule; it never steps an environment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.core.types import Specs
from robotrl.policies.policy import Policy, require


class Algorithm(ABC):
    """An update rule over a policy.

    Attributes:
        config_class: dataclass of its hyperparameters.
        loop: which training loop feeds it: "on_policy" or "off_policy".
        default_policy: policy class used when the user names none.
        default_num_envs: simulations used when the user gives no number.
        requires: capabilities the policy must have, checked at construction.
        policy: the policy being trained.
    """

    config_class: ClassVar[type]
    loop: ClassVar[str]
    default_policy: ClassVar[type[Policy]]
    default_num_envs: ClassVar[int]
    requires: ClassVar[tuple[type, ...]] = ()

    def __init__(self, specs: Specs, policy: Policy, rng: torch.Generator) -> None:
        require(policy, self.requires, type(self).__name__)
        self.specs = specs
        self.policy = policy
        self.rng = rng

    @abstractmethod
    def update(self, batch: Any) -> dict[str, Tensor]:
        """Learn from a batch of the kind its loop collects; return named scalars to log."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return networks, optimisers, normalisers and random state."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
