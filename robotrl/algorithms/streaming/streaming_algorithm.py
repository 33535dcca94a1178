"""Streaming learners as algorithms of the training command: N independent streams and the policy of one."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robotrl.algorithms.algorithm import Algorithm
from robotrl.algorithms.streaming.config import StreamPolicyConfig
from robotrl.algorithms.streaming.fine_tuning import (
    TrainedCritic,
    check_policy,
    learner_like_policy,
    stream_from_policy,
)
from robotrl.algorithms.streaming.policy import (
    LearnerConfig,
    PolicyLearner,
    StreamPolicy,
    describe,
    make_learner,
    write_policy,
)
from robotrl.algorithms.streaming.setup import Sweep
from robotrl.core import checks
from robotrl.core.errors import UsageError
from robotrl.core.types import Obs, Specs, Step
from robotrl.policies.deterministic import TanhPolicy
from robotrl.policies.policy import Policy


@dataclass
class StreamingOptions(StreamPolicyConfig):
    """What a run's configuration adds to that of its learners, which is the same for all but for `sweep`."""

    init_from: str | None = None
    """Run folder whose policy the streams go on from (PPO's, SAC's or a stream's; a squashed one for
    stream_sac, a deterministic one for stream_dac); null to begin with none. With it, `hidden` is the
    critic's only, and `normalize_obs` is the policy's."""
    std_scale: float = 1.0
    """With init_from, factor of the policy's standard deviation at the start; > 0."""
    keep_critic: bool = False
    """With init_from, go on from the critic, too: of the same streaming algorithm, PPO's (stream_ac) or SAC's
    (stream_sac). `hidden` and `critic_unit` are then its."""
    sweep: dict[str, Any] = field(default_factory=dict)
    """Hyperparameter -> list of one value per stream, such as actor_eta: [0.02, 0.05, 0.1] for num_envs=3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.above(self, 0, "std_scale")
        for name, values in self.sweep.items():
            numbers = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
            if not numbers:
                raise ValueError(f"sweep.{name} must be a list of one number per stream, got {values!r}")


class StreamingAlgorithm(Algorithm):
    """Feeds one stream per environment into a learner; `policy` is the actor of one of them.

    Networks are as wide as the policy: `policy.hidden` and the options it shares with the algorithm have
    to agree; a deviation that the policy leaves at its default follows the algorithm's. With `init_from`,
    the policy is any that a stream can go on from.

    Attributes:
        name: by which the command knows it.
        learner_config_class: of the streams' hyperparameters.
        stream: which of them `policy` shows.
        learner: the streams, None before `start`.
    """

    loop: ClassVar[str] = "streaming"
    default_num_envs: ClassVar[int] = 1
    name: ClassVar[str]
    learner_config_class: ClassVar[type[LearnerConfig]]

    policy: StreamPolicy

    @classmethod
    def make_policy(
        cls, specs: Specs, base: Policy, config: StreamingOptions, rng: torch.Generator
    ) -> Policy:
        """Return the policy that is trained; with `init_from`, one that a stream can go on from."""
        if config.init_from is not None:
            check_policy(base, cls.learner_config_class)
        return super().make_policy(specs, base, config, rng)

    def __init__(self, specs: Specs, policy: Policy, config: StreamingOptions, rng: torch.Generator) -> None:
        super().__init__(specs, policy, rng)
        self.config = config
        if config.init_from is None:
            self._check_fit()
        self._critic: TrainedCritic | None = None
        self._goes_on = False
        self.stream = 0
        self.learner: PolicyLearner | None = None

    def go_on_from(self, policy: Policy, critic: TrainedCritic | None) -> None:
        """Take over, before `start`, the weights of a trained policy and with `keep_critic` its critic."""
        self.policy.load_state_dict(policy.state_dict())
        self._critic = critic
        self._goes_on = True

    def start(self, obs: Obs, max_steps: int | None) -> None:
        """Make one learner per environment and show it the first observations.

        With `init_from` but nothing to go on from, a run is resumed: `load_state_dict` makes the learners.

        Args:
            obs: group -> (N, D).
            max_steps: control steps of a whole episode, None if unknown.

        Raises:
            UsageError: a sweep does not fit, or the time input is of another length than the episode.
        """
        if self.config.sees_time and max_steps is not None and self.config.episode_steps != max_steps:
            raise UsageError(
                f"algorithm.episode_steps is {self.config.episode_steps}, but an episode of this task has "
                f"{max_steps} control steps: set algorithm.episode_steps={max_steps}"
            )
        flat = self._flat(obs)
        seed = int(torch.randint(2**62, (), generator=self.rng))
        config, sweep, num_streams = self._learner_config(), self._sweep(), len(flat)
        if self.config.init_from is None:
            self.learner = make_learner(
                flat.shape[1], self.policy.action_dim, num_streams, config, seed, sweep
            )
        elif self._goes_on:
            scale = self.config.std_scale
            self.learner = stream_from_policy(
                self.policy, num_streams, config, seed, scale, self._critic, sweep
            )
        else:
            self.learner = learner_like_policy(self.policy, num_streams, config, seed, sweep)
        self.learner.start(flat)
        self.show(0)

    def begin(self, obs: Obs) -> None:
        """Start new episodes everywhere: those that were running are lost."""
        assert self.learner is not None
        self.learner.start(self._flat(obs))

    def act(self) -> Tensor:
        """Return the actions chosen for the current states, (N, A) in [-1, 1]."""
        assert self.learner is not None
        return torch.from_numpy(self.learner.command().astype(np.float32))

    def update(self, step: Step) -> dict[str, Tensor]:
        """Learn from one control step of every environment; what there is to log, `diagnostics` says."""
        assert self.learner is not None
        self.learner.update(
            step.reward.numpy(),
            step.terminated.numpy(),
            step.truncated.numpy(),
            self._flat(step.obs),
            self._flat(step.final_obs),
            step.valid.numpy(),
        )
        return {}

    def diagnostics(self) -> dict[str, float]:
        """Return what the last update came to, mean over the streams; of TD errors the size."""
        assert self.learner is not None
        found = {name: float(abs(values).mean()) for name, values in self.learner.diagnostics().items()}
        names = {"critic/delta": "loss/td_error", "reward_scale": "value/reward_scale"}
        return {names.get(name, f"stream/{name}"): value for name, value in found.items()}

    def durations(self) -> dict[str, float]:
        """Return, with a budget, the longest update since `start` and how many took longer."""
        assert self.learner is not None
        durations = self.learner.durations
        if durations.budget_s is None:
            return {}
        return {
            "stream/update_max_s": durations.max_s,
            "stream/updates_over_budget": durations.over_budget,
        }

    def show(self, stream: int) -> None:
        """Let `policy` be the actor of one stream, as it is now."""
        assert self.learner is not None
        self.stream = stream
        write_policy(self.learner, stream, self.policy)

    def policies(self) -> list[StreamPolicy]:
        """Return the actors of all streams, as they are now."""
        assert self.learner is not None
        found = []
        for stream in range(self.learner.num_streams):
            policy = copy.deepcopy(self.policy)
            write_policy(self.learner, stream, policy)
            found.append(policy)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the policy and all that the learners know."""
        assert self.learner is not None
        learner = {name: torch.from_numpy(values) for name, values in self.learner.state_dict().items()}
        return {
            "policy": dict(self.policy.state_dict()),
            "stream": self.stream,
            "learner": learner,
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        assert self.learner is not None
        self.policy.load_state_dict(state["policy"])
        if self.config.init_from is not None:
            # the floor of deviations and the noise are the policy's, and in its state
            num_streams = self.learner.num_streams
            self.learner = learner_like_policy(
                self.policy, num_streams, self._learner_config(), 0, self._sweep()
            )
        self.learner.load_state_dict({name: values.numpy() for name, values in state["learner"].items()})
        self.stream = state["stream"]
        self.rng.set_state(state["rng"])

    def _flat(self, obs: Obs) -> np.ndarray:
        return self.policy.flatten(obs).numpy()

    def _learner_config(self) -> LearnerConfig:
        names = [item.name for item in dataclasses.fields(self.learner_config_class)]
        options = {name: getattr(self.config, name) for name in names}
        if isinstance(self.policy, TanhPolicy) and options["noise_std"] is None:
            options["noise_std"] = self.policy.noise_std
        return self.learner_config_class(**options)

    def _sweep(self) -> Sweep:
        return {name: np.asarray(values) for name, values in self.config.sweep.items()}

    def _check_fit(self) -> None:
        """Refuse a policy that the learners' actors do not fit into.

        Raises:
            UsageError: it is of another class, an option of both differs, or one of `init_from` is set.
        """
        config, policy = self.config, self.policy
        if config.keep_critic or config.std_scale != 1.0:
            raise UsageError(
                "keep_critic and std_scale are for a trained policy: set algorithm.init_from=RUN"
            )
        if type(policy) is not self.default_policy:
            raise UsageError(
                f"{self.name} trains a {self.default_policy.__name__}, got {type(policy).__name__}: "
                "leave policy= out"
            )
        pairs = {
            "hidden": (list(describe(policy).hidden), list(config.hidden)),
            "normalize_obs": (policy.normalizer is not None, config.normalize_obs),
        }
        unset = policy.config_class()
        for name in ("std_floor", "noise_std"):
            if getattr(config, name, None) is not None and getattr(policy, name) != getattr(unset, name):
                pairs[name] = (getattr(policy, name), getattr(config, name))
        for name, (mine, theirs) in pairs.items():
            if mine != theirs:
                raise UsageError(
                    f"policy.{name} is {mine} but algorithm.{name} is {theirs}: actor and critic share it, "
                    "set both"
                )
