"""What all streaming learners are: N independent streams in arrays, advanced by one compiled step."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from robotrl.algorithms.streaming.compiled import Doubles, Reals
from robotrl.algorithms.streaming.config import StreamConfig
from robotrl.algorithms.streaming.durations import Durations
from robotrl.algorithms.streaming.episode import network_shape
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.inputs import (
    as_numbers,
    fill,
    fill_flags,
    refuse_bad,
    refuse_large,
    require_whole,
)
from robotrl.algorithms.streaming.network import forward, layer_matrices, new_activations
from robotrl.algorithms.streaming.normalization import normalize_frozen, reward_scale
from robotrl.algorithms.streaming.rules.codes import rule_name
from robotrl.algorithms.streaming.setup import (
    Network,
    Sweep,
    make_hyper,
    make_layout,
    make_switches,
    new_streams,
    new_transitions,
)
from robotrl.algorithms.streaming.state import (
    DELTA,
    NOISE_STD,
    NUM_HYPER_COLUMNS,
    OBS_CLIP,
    RATE,
    STD_FLOOR,
    STEP,
    TRACE,
    WEIGHTS,
    Workspace,
)
from robotrl.algorithms.streaming.workers import Workers
from robotrl.core.errors import UsageError, unknown_name

C = TypeVar("C", bound=StreamConfig)


class StreamLearner(ABC):
    """N streams that learn side by side, each from its own transitions and from nothing else.

    The state of a stream does not depend on how many others there are, nor on the number of threads. A
    learner is used as

        learner.start(obs)
        while True:
            action = learner.act()
            ...
            learner.update(reward, terminated, truncated, next_obs, final_obs)

    and everything between two calls is in `state_dict`, mid-episode too.

    Attributes:
        config: the hyperparameters.
        heads: names of the networks.
        sizes: layer widths of each, input and output included.
        streams: the state, for those who look inside.
        durations: of the updates since `start`.
    """

    config_class: ClassVar[type[StreamConfig]]

    def __init__(
        self,
        networks: Sequence[Network],
        obs_dim: int,
        action_width: int,
        head: Head,
        num_streams: int,
        config: StreamConfig,
        seed: int,
        sweep: Sweep | None,
        num_threads: int | None,
        dtype: npt.DTypeLike,
    ) -> None:
        require_whole("obs_dim", obs_dim, 1)
        require_whole("num_streams", num_streams, 1)
        require_whole("seed", seed, 0)
        if num_threads is not None:
            require_whole("num_threads", num_threads, 1)
        for network in networks:
            require_whole(f"number of outputs of the {network.name}", network.outputs, 1)
        if (number := np.dtype(dtype)) not in (np.float32, np.float64):
            raise UsageError(f"{type(self).__name__}: dtype is {number}, expected float32 or float64")
        self.config = config
        self.obs_dim, self.num_streams = obs_dim, num_streams
        self.heads = tuple(network.name for network in networks)
        self._layout = make_layout(networks, obs_dim + config.sees_time)
        sizes: list[list[int]] = self._layout.sizes.tolist()
        self.sizes = sizes
        self._switches = make_switches(config, head)
        self._hyper = make_hyper(config, networks, num_streams, sweep or {})
        self.streams = new_streams(self._layout, config, obs_dim, action_width, num_streams, seed, dtype)
        self.streams.rules[:, :, RATE] = self._hyper[:, NUM_HYPER_COLUMNS:]
        self._batch = new_transitions(num_streams, obs_dim)
        self._started = False
        self.durations = Durations(config.update_budget_s)
        cpus = len(os.sched_getaffinity(0)) if num_threads is None else num_threads
        self._workers = Workers(num_streams, cpus, lambda: self._new_workspace(action_width, dtype))

    def _new_workspace(self, action_width: int, dtype: npt.DTypeLike) -> Workspace:
        return Workspace(
            direction=np.zeros(self._layout.parameters[-1], dtype),
            activations=np.concatenate([new_activations(s, 1, dtype)[0] for s in self.sizes]),
            gradient=np.zeros((2, self._layout.sizes.max() + 1), dtype),
            action=np.zeros((2, action_width)),
        )

    @property
    def num_threads(self) -> int:
        """Threads that advance the streams."""
        return self._workers.num_threads

    @classmethod
    def checked(cls, config: C) -> C:
        """Return a configuration that is of this learner.

        Raises:
            UsageError: it is of another.
        """
        if not isinstance(config, cls.config_class):
            raise UsageError(
                f"{cls.__name__} takes a {cls.config_class.__name__}, got a {type(config).__name__}"
            )
        return config

    @property
    @abstractmethod
    def _advance(self) -> Callable[..., None]:
        """The compiled step: (low, high, layout, switches, hyper, streams, batch, work)."""

    def start(self, obs: npt.ArrayLike) -> None:
        """Begin an episode in every stream.

        The first call in a process compiles the kernels, which can take a minute where they are not yet
        on disk; updates take their usual time from the first on.

        Args:
            obs: (N, D) first observations.

        Raises:
            UsageError: they are of another size, not finite or beyond 1e15; nothing has changed.
        """
        self._take(0.0, False, False, "obs", obs, None, False)
        self._started = True
        self.durations = Durations(self.config.update_budget_s)

    def act(self) -> npt.NDArray[Any]:
        """Return the actions that were chosen for the current states.

        Raises:
            UsageError: there are none before `start`.
        """
        self._require_start()
        return self.streams.action.copy()

    def _finite_action(self) -> npt.NDArray[Any]:
        """Return `act`'s actions.

        Raises:
            UsageError: one is not finite, or there are none before `start`.
        """
        action = self.act()
        finite = np.isfinite(action)
        if not finite.all():
            stream = int(np.argmin(finite.all(1)))
            raise UsageError(
                f"stream {stream}: the action is {action[stream].tolist()}: its networks diverged, go on "
                "from an older state with smaller steps"
            )
        return action

    def update(
        self,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike,
        next_obs: npt.ArrayLike,
        final_obs: npt.ArrayLike | None = None,
        valid: npt.ArrayLike | None = None,
    ) -> None:
        """Learn from what the last actions brought, and choose the next ones.

        An update is never left half done: one that takes longer than `config.update_budget_s` is counted
        in `durations`.

        Args:
            reward: (N,).
            terminated: (N,) bool, a true end state: the return ends here.
            truncated: (N,) bool, ended by the time limit: the return goes on from `final_obs`.
            next_obs: (N, D) what to act on next; where an episode ended, the first of the next one.
            final_obs: (N, D) true successor where an episode ended; not needed where none did.
            valid: (N,) bool, False where nothing is to be learned and an episode begins at `next_obs`, which
                has to be finite all the same: give the last sound one where a sensor failed.

        Of reward and flags, a single one stands for all streams.

        Raises:
            UsageError: an array has another size, a flag is neither true nor false, or a number is not
                finite or beyond 1e15; nothing has changed.
        """
        start_s = time.perf_counter()
        self._require_start()
        self._take(
            reward, terminated, truncated, "next_obs", next_obs, final_obs, True if valid is None else valid
        )
        self.durations.add(time.perf_counter() - start_s)

    def _require_start(self) -> None:
        if not self._started:
            raise UsageError("no episode has begun: call start(obs) first")

    def _take(
        self,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike,
        obs_name: str,
        next_obs: npt.ArrayLike,
        final_obs: npt.ArrayLike | None,
        valid: npt.ArrayLike,
    ) -> None:
        """Check what a step brought, and advance all streams by it; errors call next_obs `obs_name`."""
        batch = self._batch
        fill("reward", batch.reward, reward, one_for_all=True)
        fill_flags("terminated", batch.terminated, terminated)
        fill_flags("truncated", batch.truncated, truncated)
        fill_flags("valid", batch.valid, valid)
        fill(obs_name, batch.next_obs, next_obs)
        if final_obs is not None:
            fill("final_obs", batch.final_obs, final_obs)
        elif (batch.valid & (batch.terminated | batch.truncated)).any():
            raise UsageError("an episode ended: give final_obs, the observation before the reset")
        refuse_bad(batch, obs_name)
        self._workers.run(self._advance_part)

    def _advance_part(self, low: int, high: int, work: Workspace) -> None:
        self._advance(low, high, self._layout, self._switches, self._hyper, self.streams, self._batch, work)

    def parameters(self, head: str) -> Reals:
        """View the parameters of one network of every stream, (N, P)."""
        return self._row(self.heads.index(head), WEIGHTS)

    def layers(self, head: str, stream: int, traces: bool = False) -> list[Reals]:
        """View the parameters or traces of one network as matrices, see `network.layer_matrices`."""
        k = self.heads.index(head)
        vectors = self.traces(head) if traces else self.parameters(head)
        return layer_matrices(vectors[stream], self.sizes[k], int(self._layout.constants[k]))

    def traces(self, head: str) -> Reals:
        """View the eligibility traces of one network of every stream, (N, P)."""
        return self._row(self.heads.index(head), TRACE)

    def _row(self, k: int, row: int) -> Reals:
        start, end = self._layout.parameters[k], self._layout.parameters[k + 1]
        rows = int(self._layout.rows[0])
        block = self.streams.memory[:, rows * start : rows * end]
        return block.reshape(self.num_streams, rows, -1)[:, row]

    @property
    def std_floor(self) -> Doubles:
        """What is added to the standard deviations of each stream's policy, (N,)."""
        return self._hyper[:, STD_FLOOR]

    @property
    def noise_std(self) -> Doubles:
        """Standard deviation of the noise that a deterministic policy explores with, (N,)."""
        return self._hyper[:, NOISE_STD]

    def outputs(self, head: str, obs: npt.ArrayLike, action: npt.ArrayLike | None = None) -> Reals:
        """Evaluate one network of every stream without learning, its normaliser frozen.

        A time input is held at 0, the middle of an episode.

        Args:
            head: name of the network.
            obs: (N, D) raw.
            action: (N, A), of a network that values actions.

        Returns:
            (N, O).

        Raises:
            UsageError: there is no such network, it values actions and none are given, or an array has
                another size or holds what is not finite or beyond 1e15.
        """
        if head not in self.heads:
            raise unknown_name("network", head, self.heads)
        room = np.zeros((self.num_streams, self.obs_dim))
        fill("obs", room, obs)
        refuse_large("obs", room)
        k = self.heads.index(head)
        if action is None and self.sizes[k][0] > self.sizes[0][0]:
            raise UsageError(f"the {head} values actions: give them, too")
        sizes, parameters = self.sizes[k], np.ascontiguousarray(self.parameters(head))
        shape = network_shape(k, self._layout)
        a = new_activations(sizes, self.num_streams, parameters.dtype)
        if action is not None:
            fill("action", a[:, self.sizes[0][0] : sizes[0]], action)
            refuse_large("action", a[:, self.sizes[0][0] : sizes[0]])
        for i in range(self.num_streams):
            if self.config.normalize_obs:
                clip = self._hyper[i, OBS_CLIP]
                normalize_frozen(self.streams.obs_statistics[i], room[i], clip, a[i, : self.obs_dim])
            else:
                a[i, : self.obs_dim] = room[i]
            forward(parameters[i], shape, a[i])
        end = a.shape[1] - (len(sizes) - 2)
        return a[:, end - sizes[-1] : end]

    def current_outputs(self, head: str) -> Reals:
        """Return what one network of every stream says in its current state, (N, O)."""
        k = self.heads.index(head)
        end = self._layout.activations[k + 1] - (len(self.sizes[k]) - 2)
        return self.streams.activations[:, end - self.sizes[k][-1] : end].copy()

    def obs_mean_var(self, stream: int) -> tuple[Doubles, Doubles]:
        """Return the mean and variance that stream's observations are normalised with, (D,) each."""
        statistics = self.streams.obs_statistics[stream]
        mean, square = statistics[1 : 1 + self.obs_dim].copy(), statistics[1 + self.obs_dim :]
        if not self.config.normalize_obs or statistics[0] < 2.0:
            return mean, np.ones(self.obs_dim)
        return mean, square / (statistics[0] - 1.0)

    def reward_scale(self) -> Doubles:
        """Return what rewards are divided by, (N,)."""
        if not self.config.scale_reward:
            return np.ones(self.num_streams)
        return np.array([reward_scale(row) for row in self.streams.reward_statistics])

    def diagnostics(self) -> dict[str, Doubles]:
        """Return what the last update came to, (N,) each: TD error as the rule saw it, and steps."""
        values = {"reward_scale": self.reward_scale()}
        for k, name in enumerate(self.heads):
            values[f"{name}/delta"] = self.streams.rules[:, k, DELTA].copy()
            values[f"{name}/step"] = self.streams.rules[:, k, STEP].copy()
            values[f"{name}/trace"] = np.abs(self.traces(name)).sum(1, dtype=np.float64)
        return values

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of the arrays of `Streams`, by name, and the codes of the step-size rules."""
        return {name: array.copy() for name, array in self._arrays().items()}

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        """View what is saved, in the types it is saved in."""
        random = self.streams.random.view(np.int64)
        return self.streams._asdict() | {"random": random, "rule_codes": self._layout.rules}

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Continue from `state_dict`, bit for bit where the hyperparameters are the same.

        Hyperparameters remain this learner's own. The kernels are compiled here, as they are by `start`.

        Raises:
            KeyError: an array is missing.
            UsageError: an array does not fit this learner, or its networks learned by other rules; nothing
                has changed.
        """
        mine = self._arrays()
        given = {name: as_numbers(name, state[name]) for name in mine}
        for name, array in mine.items():
            if given[name].shape != array.shape or given[name].dtype != array.dtype:
                raise UsageError(
                    f"{name} of the saved learner is {given[name].dtype} {given[name].shape}, "
                    f"expected {array.dtype} {array.shape}"
                )
        codes = given["rule_codes"].tolist()
        for name, theirs, ours in zip(self.heads, codes, self._layout.rules.tolist(), strict=True):
            if theirs != ours:
                raise UsageError(
                    f"the saved learner's {name} learned by rule {rule_name(theirs)}, this one's does by "
                    f"{rule_name(ours)}: make the learner with the rule it was saved with"
                )
        if not self._started:
            self.start(np.zeros((self.num_streams, self.obs_dim)))
        for name, array in mine.items():
            array[:] = given[name]
        self.streams.rules[:, :, RATE] = self._hyper[:, NUM_HYPER_COLUMNS:]
