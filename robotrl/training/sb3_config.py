"""Options of the Stable-Baselines3 baselines: SB3's hyperparameters under SB3's names, with its defaults.

The networks are described by the policy section, as for our own algorithms: subclasses of our policies
whose defaults are SB3's `MlpPolicy`, and which refuse what SB3 does not have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from robotrl.core import checks
from robotrl.core.types import Specs
from robotrl.networks.mlp import Activation
from robotrl.policies.deterministic import DeterministicConfig, DeterministicPolicy
from robotrl.policies.gaussian import (
    GaussianConfig,
    GaussianPolicy,
    MlpPolicyConfig,
    SquashedGaussianConfig,
    SquashedGaussianPolicy,
)


@dataclass
class Sb3GaussianConfig(GaussianConfig):
    """SB3's `MlpPolicy` of PPO: raw observations, `mean_gain` 0.01."""

    hidden: list[int] = field(default_factory=lambda: [64, 64])
    """Widths of the hidden layers."""
    activation: Activation = Activation.TANH
    """relu, tanh, elu, gelu, silu or mish; also the critic's."""
    normalize_obs: bool = False
    """SB3's networks take raw observations: false only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_what_sb3_has_not(self, mean_gain=0.01)


class Sb3GaussianPolicy(GaussianPolicy):
    """`GaussianPolicy` with SB3's defaults."""

    config_class: ClassVar[type] = Sb3GaussianConfig

    def __init__(self, specs: Specs, config: Sb3GaussianConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config, rng)
        self.config = config


@dataclass
class Sb3SquashedGaussianConfig(SquashedGaussianConfig):
    """SB3's `MlpPolicy` of SAC: raw observations, log std in [-20, 2]."""

    normalize_obs: bool = False
    """SB3's networks take raw observations: false only."""
    log_std_min: float = -20.0
    """Lower end of log std: SB3's only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_what_sb3_has_not(self, log_std_min=-20.0, log_std_max=2.0)


class Sb3SquashedGaussianPolicy(SquashedGaussianPolicy):
    """`SquashedGaussianPolicy` with SB3's defaults."""

    config_class: ClassVar[type] = Sb3SquashedGaussianConfig

    def __init__(self, specs: Specs, config: Sb3SquashedGaussianConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config, rng)
        self.config = config


@dataclass
class Sb3DeterministicConfig(DeterministicConfig):
    """SB3's `MlpPolicy` of TD3: raw observations."""

    hidden: list[int] = field(default_factory=lambda: [400, 300])
    """Widths of the hidden layers."""
    normalize_obs: bool = False
    """SB3's networks take raw observations: false only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_what_sb3_has_not(self)


class Sb3DeterministicPolicy(DeterministicPolicy):
    """`DeterministicPolicy` with SB3's defaults."""

    config_class: ClassVar[type] = Sb3DeterministicConfig

    def __init__(self, specs: Specs, config: Sb3DeterministicConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config, rng)
        self.config = config


def _refuse_what_sb3_has_not(config: MlpPolicyConfig, **fixed: float) -> None:
    for name, value in {"normalize_obs": False, **fixed}.items():
        if getattr(config, name) != value:
            raise ValueError(f"{name} must be {value}, SB3 has no other; got {getattr(config, name)}")
    if len(config.obs_groups) != 1:
        raise ValueError(f"obs_groups: SB3's networks take one group, got {config.obs_groups}")


@dataclass
class Sb3PPOConfig:
    """SB3's hyperparameters of PPO."""

    learning_rate: float = 3e-4
    """Of Adam; > 0."""
    n_steps: int = 2048
    """Control steps per environment between two updates; >= 2."""
    batch_size: int = 64
    """Transitions per gradient step; >= 2."""
    n_epochs: int = 10
    """Passes over each rollout; >= 1."""
    gamma: float = 0.99
    """Discount; in [0, 1)."""
    gae_lambda: float = 0.95
    """Lambda of GAE; in [0, 1]."""
    clip_range: float = 0.2
    """Clipping of the probability ratio; > 0."""
    clip_range_vf: float | None = None
    """Clipping of the value's change, in units of the return, > 0; null for none."""
    normalize_advantage: bool = True
    """Whether advantages are normalised per minibatch."""
    ent_coef: float = 0.0
    """Weight of the entropy; >= 0."""
    vf_coef: float = 0.5
    """Weight of the squared value error; >= 0."""
    max_grad_norm: float = 0.5
    """Gradients are scaled down to this norm; > 0."""
    target_kl: float | None = None
    """KL above 1.5 times this ends an update early, nats, > 0; null for never."""
    critic_hidden: list[int] = field(default_factory=lambda: [64, 64])
    """Widths of the critic's hidden layers."""

    def __post_init__(self) -> None:
        checks.above(self, 0, "learning_rate", "clip_range", "max_grad_norm", "clip_range_vf", "target_kl")
        checks.at_least(self, 2, "n_steps", "batch_size")
        checks.at_least(self, 1, "n_epochs")
        checks.at_least(self, 0, "ent_coef", "vf_coef")
        checks.within(self, "[0, 1)", "gamma")
        checks.within(self, "[0, 1]", "gae_lambda")
        checks.widths(self, "critic_hidden")


@dataclass
class Sb3OffPolicyConfig:
    """What SB3's SAC and TD3 share."""

    learning_rate: float = 3e-4
    """Of Adam, for all networks; > 0."""
    buffer_size: int = 1_000_000
    """Transitions kept; >= 1."""
    learning_starts: int = 100
    """Environment steps with uniformly random actions before learning; >= 0."""
    batch_size: int = 256
    """Transitions per gradient step; >= 1."""
    tau: float = 0.005
    """Share of the networks that moves into their targets; in (0, 1]."""
    gamma: float = 0.99
    """Discount; in [0, 1)."""
    train_freq: int = 1
    """Control steps per environment between two updates; >= 1."""
    gradient_steps: int = 1
    """Gradient steps per update; -1 for as many as transitions were collected."""
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the critics' hidden layers."""

    def __post_init__(self) -> None:
        checks.above(self, 0, "learning_rate")
        checks.at_least(self, 1, "buffer_size", "batch_size", "train_freq")
        checks.at_least(self, 0, "learning_starts")
        checks.within(self, "[0, 1)", "gamma")
        checks.within(self, "(0, 1]", "tau")
        checks.widths(self, "critic_hidden")
        if self.gradient_steps < 1 and self.gradient_steps != -1:
            raise ValueError(f"gradient_steps must be at least 1, or -1, got {self.gradient_steps}")


@dataclass
class Sb3SACConfig(Sb3OffPolicyConfig):
    """SB3's hyperparameters of SAC."""

    ent_coef: str = "auto"
    """Temperature: auto, auto_0.1 to start from 0.1, or a fixed number."""
    target_entropy: float | None = None
    """Target entropy, nats; null for SB3's -A."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.finite(self, "target_entropy")
        if not re.fullmatch(r"auto|(auto_)?(\d+(\.\d*)?|\.\d+)(e-?\d+)?", self.ent_coef):
            raise ValueError(f"ent_coef must be auto, auto_NUMBER or a number, got {self.ent_coef!r}")
        if self.ent_coef.startswith("auto_") and not float(self.ent_coef.removeprefix("auto_")) > 0.0:
            raise ValueError(f"ent_coef must start above 0 where it is learned, got {self.ent_coef!r}")


@dataclass
class Sb3TD3Config(Sb3OffPolicyConfig):
    """SB3's hyperparameters of TD3; its exploration noise is `policy.noise_std`."""

    learning_rate: float = 1e-3
    """Of Adam, for all networks; > 0."""
    policy_delay: int = 2
    """Critic updates per policy update; >= 1."""
    target_policy_noise: float = 0.2
    """Standard deviation of the noise on target actions, in half widths of the range; >= 0."""
    target_noise_clip: float = 0.5
    """Where that noise is cut, in half widths of the range; >= 0."""
    critic_hidden: list[int] = field(default_factory=lambda: [400, 300])
    """Widths of the critics' hidden layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 1, "policy_delay")
        checks.at_least(self, 0, "target_policy_noise", "target_noise_clip")
