"""What every algorithm is: networks, optimisers and an update rule; it never steps an environment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.types import Specs
from robotrl.policies.policy import Policy, require


class Algorithm(ABC):
    """An update rule over a policy.

    Attributes:
        config_class: dataclass of its hyperparameters.
        loop: which training loop feeds it: "on_policy" or "off_policy".
        default_policy: policy class used when the user names none.
        default_num_envs: simulations used when the user gives no number.
        default_total_steps: environment steps taken when the user gives no number.
        requires: capabilities that the user's policy must have.
        learns_chunks: whether that policy may decide for several control steps at a time.
        policy: the policy being trained, as `make_policy` returns it.
    """

    config_class: ClassVar[type]
    loop: ClassVar[str]
    default_policy: ClassVar[type[Policy]]
    default_num_envs: ClassVar[int]
    default_total_steps: ClassVar[int] = 1_000_000
    requires: ClassVar[tuple[type, ...]] = ()
    learns_chunks: ClassVar[bool] = False

    @classmethod
    def make_policy(cls, specs: Specs, base: Policy, config: Any, rng: torch.Generator) -> Policy:
        """Return the policy that is trained: the one that the user chose, or one made around it.

        Args:
            specs: of the environment.
            base: of the user's `policy` section.
            config: the algorithm's hyperparameters.
            rng: where weights are drawn from.

        Raises:
            UsageError: `base` lacks a capability that the algorithm needs, or decides for more control steps
                than it can learn from.
        """
        require(base, cls.requires, cls.__name__)
        if base.horizon > 1 and not cls.learns_chunks:
            raise UsageError(
                f"{cls.__name__} learns from single control steps, not from chunks of {base.horizon}: set "
                "policy.horizon=1, or choose another run for algorithm.init_from"
            )
        return base

    def __init__(self, specs: Specs, policy: Policy, rng: torch.Generator) -> None:
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
