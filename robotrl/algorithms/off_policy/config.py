"""What all learners from replay have in common: data, critics, targets."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from robotrl.core import checks
from robotrl.networks.critic import Aggregate
from robotrl.networks.mlp import Activation, Init, Norm


class Preset(enum.Enum):
    """Which form of a method, where its released code differs from what it is described as here."""

    CORRECTED = "corrected"
    """As described."""
    RELEASED = "released"
    """As released with the paper."""


@dataclass
class ReplayConfig:
    """Hyperparameters of everything that learns from replay or data."""

    replay_size: int = 1_000_000
    """Transitions kept; >= batch_size, learning_starts and the number of simulations."""
    batch_size: int = 256
    """Transitions per gradient step; >= 1."""
    replay_ratio: float = 1.0
    """Updates per environment transition collected ("UTD"); > 0."""
    learning_starts: int = 5_000
    """Transitions collected before learning, with uniformly random actions unless the policy has learned
    something before; >= 1."""
    offline_updates: int = 0
    """Updates on `data` before the first environment step; >= 0."""
    offline_fraction: float | None = 0.5
    """Share of `data` in each batch once there is experience, in [0, 1]; null: all is one buffer."""
    init_from: str | None = None
    """Run folder whose policy this one starts from; null to start with random weights."""
    learning_rate: float = 3e-4
    """Of Adam, for all networks; > 0."""
    gamma: float = 0.99
    """Discount; in [0, 1)."""

    def __post_init__(self) -> None:
        checks.choices(self)
        checks.at_least(self, 1, "batch_size", "learning_starts")
        checks.at_least(self, 0, "offline_updates")
        checks.above(self, 0, "replay_ratio", "learning_rate")
        checks.within(self, "[0, 1)", "gamma")
        checks.within(self, "[0, 1]", "offline_fraction")
        for name in ("batch_size", "learning_starts"):
            if self.replay_size < getattr(self, name):
                raise ValueError(f"replay_size {self.replay_size} is below {name} {getattr(self, name)}")


def refuse_compiled_release(compile: bool, preset: Preset) -> None:
    """Refuse to compile a released form whose updates are not all alike: batches lose rows, policies rest.

    Raises:
        ValueError: both are asked for.
    """
    if compile and preset is Preset.RELEASED:
        raise ValueError("compile: the updates of preset=released are not all alike; leave it at false")


def refuse_value_range(low_high: list[float], bins: int) -> None:
    """Refuse a range that is none, or whose bins float32 cannot tell apart.

    Raises:
        ValueError: it is one of these.
    """
    largest = max(map(abs, low_high), default=math.inf)
    if len(low_high) != 2 or not max(1e-30, 1e-6 * largest) * bins < low_high[1] - low_high[0] < 1e30:
        raise ValueError(
            f"value_range must be [low, high] with low < high, of which float32 can tell {bins} bins "
            f"apart, got {low_high}"
        )


@dataclass
class OffPolicyConfig(ReplayConfig):
    """Hyperparameters of data and critics."""

    tau: float = 0.005
    """Share of the critics that moves into their targets at each update; in (0, 1]."""
    policy_delay: int = 1
    """Critic updates per policy update; >= 1."""
    num_critics: int = 2
    """Members of the critic ensemble; >= 1."""
    target_members: int | None = None
    """Critics drawn for each target, before they are evaluated; null for all of them."""
    target_aggregate: Aggregate = Aggregate.MIN
    """min, mean or mean_minus_std of the target's critics."""
    pessimism: float = 0.5
    """Of mean_minus_std; >= 0."""
    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the critics' hidden layers."""
    activation: Activation = Activation.RELU
    """Of the critics."""
    critic_norm: Norm = Norm.NONE
    """LayerNorm of the critics: none, pre (before the activation) or post (after it)."""
    critic_init: Init = Init.UNIFORM
    """How the critics' weights are drawn."""
    value_range: list[float] | None = None
    """[low, high] of a critic that classifies values into bins (HL-Gauss); null for a plain one. What share
    of the targets lies outside, and is cut, is logged as value/target_outside."""
    value_bins: int = 128
    """Bins of a classifying critic; >= 2."""
    critic_groups: list[str] = field(default_factory=lambda: ["policy"])
    """Observation groups of the critics; add "privileged" for asymmetric critics."""
    compile: bool = False
    """Whether updates are compiled by torch.compile (see `compiled.py`); needs a C++ compiler. It takes
    minutes at the start and makes EXPO and RLPD a quarter to a third faster on one CPU core. A run that is
    resumed is then as good as one that was not interrupted, but not the same to the bit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 1, "num_critics", "policy_delay", "target_members")
        checks.at_least(self, 2, "value_bins")
        checks.at_least(self, 0, "pessimism")
        checks.within(self, "(0, 1]", "tau")
        checks.widths(self, "hidden")
        if self.target_members is not None and self.target_members > self.num_critics:
            raise ValueError(f"target_members {self.target_members} is above num_critics {self.num_critics}")
        if self.value_range is not None:
            refuse_value_range(self.value_range, self.value_bins)
