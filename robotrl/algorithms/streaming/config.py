"""Hyperparameters of the streaming learners; see the modules of `rules` for what the numbers mean."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field

from robotrl.algorithms.streaming.rules.codes import RATES, Rule
from robotrl.algorithms.streaming.units import Unit
from robotrl.core import checks


class Preset(enum.Enum):
    """Whether the corrections of the released codes' faults are on."""

    DEFAULT = "default"
    """At least two non-zero weights per unit; time limits bootstrap; traces and the reward's running sum
    start anew with every episode; SARSA draws a fresh first action."""
    REFERENCE = "reference"
    """As released: units may start without weights, and the reward's running sum leaks into the next
    episode. With the Intentional rules a time limit is not noticed at all; with the others it ends the
    return as a true end does, and the episode's time is an input, see `time_input`. A policy's standard
    deviation has no floor."""


@dataclass
class StreamConfig:
    """What all streaming learners share."""

    preset: Preset = Preset.DEFAULT
    """default, or reference for the published behaviour."""
    rule: Rule = Rule.INTENTIONAL
    """obgd, adaptive_obgd, intentional, sgd or adam. With discrete actions, intentional is about logits, see
    `rules.intentional`."""
    gamma: float = 0.99
    """Discount; in [0, 1)."""
    trace_lambda: float = 0.8
    """Lambda of the eligibility traces; in [0, 1)."""
    critic_kappa: float = 2.0
    """Of obgd and adaptive_obgd: one over the most a step moves the critic, 1-norm; > 0."""
    critic_eta: float = 0.5
    """Of the intentional rules: fraction of the error that a step is meant to remove; > 0."""
    critic_learning_rate: float = 1e-4
    """Of sgd and adam; > 0."""
    hidden: list[int] = field(default_factory=lambda: [128, 128])
    """Widths of the hidden layers."""
    sparsity: float = 0.9
    """Fraction of each unit's weights that starts at zero; in [0, 1)."""
    normalize_obs: bool = True
    """Normalise observations by running statistics."""
    scale_reward: bool = True
    """Divide rewards by the deviation of their running discounted sum."""
    time_input: bool = True
    """With preset=reference and a rule that is not intentional: the episode's time is an input, as released
    for continuous and classic control, and not for MinAtar and Atari."""
    episode_steps: int = 1000
    """Control steps of a whole episode, for the time input; >= 1."""
    update_budget_s: float | None = None
    """What an update may take, s, > 0: longer ones are counted. Null for any time."""

    def __post_init__(self) -> None:
        checks.choices(self)
        checks.within(self, "[0, 1)", "gamma", "trace_lambda", "sparsity")
        checks.above(self, 0, "critic_kappa", "critic_eta", "critic_learning_rate", "update_budget_s")
        checks.at_least(self, 1, "episode_steps")
        checks.widths(self, "hidden")
        self._refuse_idle_rates()

    def _refuse_idle_rates(self) -> None:
        for item in dataclasses.fields(self):
            network, _, rate = item.name.partition("_")
            chooser = f"{network}_rule" if hasattr(self, f"{network}_rule") else "rule"
            rule: Rule = getattr(self, chooser)
            value = getattr(self, item.name)
            if rate in RATES and rate != rule.rate and value != item.default:
                raise ValueError(
                    f"{item.name}={value} does nothing with {chooser}={rule.value}, which has "
                    f"{network}_{rule.rate}: set that, or another {chooser}"
                )

    @property
    def sees_time(self) -> bool:
        """Whether the episode's time is an input."""
        return self.time_input and self.preset is Preset.REFERENCE and self.rule is not Rule.INTENTIONAL


@dataclass
class StreamTDConfig(StreamConfig):
    """Hyperparameters of stream TD(lambda)."""

    time_input: bool = False
    """With preset=reference and a rule that is not intentional: the episode's time is an input. Not as
    released, and without bound in a series that has no episodes."""


@dataclass
class EpsilonGreedyConfig(StreamConfig):
    """What the learners of discrete actions' values share."""

    epsilon_start: float = 1.0
    """Probability of a random action at the first step; in [0, 1]."""
    epsilon_end: float = 0.01
    """The same after exploration_steps; in [0, 1]."""
    exploration_steps: int = 25_000
    """Control steps over which epsilon falls linearly; >= 1."""
    repeat_exponent: float | None = None
    """Keep a random action for n steps with probability proportional to n^-repeat_exponent (epsilon-z-greedy,
    arXiv:2006.01782; 2 there), for tasks where single random actions lead nowhere; > 1. Null for one step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.within(self, "[0, 1]", "epsilon_start", "epsilon_end")
        checks.at_least(self, 1, "exploration_steps")
        checks.above(self, 1, "repeat_exponent")


@dataclass
class StreamQConfig(EpsilonGreedyConfig):
    """Hyperparameters of stream Q(lambda) and SARSA(lambda)."""

    critic_eta: float = 0.25
    """Of the intentional rules: fraction of the error that a step is meant to remove; > 0."""
    on_policy: bool = False
    """SARSA(lambda) instead of Q(lambda)."""


@dataclass
class StreamQRCConfig(EpsilonGreedyConfig):
    """Hyperparameters of QRC(lambda)."""

    rule: Rule = Rule.SGD
    """sgd: the method is its own step-size rule."""
    critic_learning_rate: float = 1e-3
    """Of the network of values; > 0. The paper's 1e-4 is for five million steps."""
    correction_learning_rate: float = 1e-4
    """Of the network that predicts the TD error; > 0."""
    correction_decay: float = 1.0
    """beta, how fast that network's parameters fall back to zero, in units of its learning rate; >= 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule is not Rule.SGD or self.preset is Preset.REFERENCE:
            raise ValueError("QRC(lambda) has neither another rule than sgd nor a preset: leave them out")
        checks.above(self, 0, "correction_learning_rate")
        checks.at_least(self, 0, "correction_decay")


@dataclass
class StreamPolicyConfig(StreamConfig):
    """What the learners with a policy share."""

    actor_kappa: float = 3.0
    """Of obgd and adaptive_obgd: one over the most a step moves the actor, 1-norm; > 0."""
    actor_eta: float = 0.05
    """Of the intentional rules: how far log pi moves per error of the usual size; > 0."""
    actor_learning_rate: float = 1e-4
    """Of sgd and adam; > 0."""
    actor_rest_steps: int = 0
    """Control steps of which only the critic learns, at the start; >= 0."""
    critic_unit: Unit = Unit.LAYER_NORM
    """Hidden units of the critic: layer_norm (LayerNorm and LeakyReLU), relu, tanh or elu."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.above(self, 0, "actor_kappa", "actor_eta", "actor_learning_rate")
        checks.at_least(self, 0, "actor_rest_steps")


@dataclass
class StreamACConfig(StreamPolicyConfig):
    """Hyperparameters of stream AC(lambda)."""

    entropy_coef: float = 0.01
    """tau, weight of the entropy's gradient; >= 0."""
    std_floor: float | None = None
    """Added to sigma, in units of the action range's half width; >= 0. Null for 1e-3, or 0 with
    preset=reference, once: `dataclasses.replace(config, preset=...)` keeps what it was."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.std_floor is None:
            self.std_floor = 0.0 if self.preset is Preset.REFERENCE else 1e-3
        checks.at_least(self, 0, "entropy_coef", "std_floor")


@dataclass
class StreamQACConfig(StreamPolicyConfig):
    """What S2AC and SDAC share."""

    actor_eta: float = 0.05
    """Of intentional: how far the outputs move by a gradient of the usual size; > 0."""
    actor_rule: Rule = Rule.INTENTIONAL
    """The actor's: obgd, adaptive_obgd, intentional, sgd or adam; `rule` is the critic's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset is Preset.REFERENCE:
            raise ValueError("preset=reference: nothing is known to be released of this method, use default")


@dataclass
class StreamSACConfig(StreamQACConfig):
    """Hyperparameters of S2AC."""

    alpha: float = 0.02
    """Temperature: what a nat of entropy is worth, in units of the raw reward; >= 0."""
    std_floor: float = 1e-3
    """Added to sigma before tanh; >= 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 0, "alpha", "std_floor")


@dataclass
class StreamDACConfig(StreamQACConfig):
    """Hyperparameters of SDAC."""

    noise_std: float | None = None
    """Standard deviation of the noise that explores and smooths the target, in units of the action range's
    half width; >= 0. Null for that of the policy, which is 0.2 unless it was trained by another method."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 0, "noise_std")
