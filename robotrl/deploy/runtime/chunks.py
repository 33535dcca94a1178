"""From decisions, each of which may hold several actions, to the action of each control step.

`BundleController` plays a decision to its end before the next one; here are the other ways. Shapes: h actions
of one decision, A numbers of an action. `decide` maps an observation (D,) to (h, A).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import Protocol

import numpy as np

from robotrl.core.errors import RobotrlError, UsageError

Decide = Callable[[np.ndarray], np.ndarray]
GoOn = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""Decides, given also what the decision before would still play, (m, A), None for the first one."""


class UnderrunError(RobotrlError):
    """No action is left and no decision has come for too many control steps."""


class Execution(Protocol):
    """A way of executing decisions."""

    def reset(self) -> None:
        """Forget everything decided so far, decisions under way included."""

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Return the action (A,) of this control step, given its observation (D,)."""


class TemporalEnsemble:
    """Decides at every control step and averages all that was decided for it.

    A prediction has weight exp(-m i), i = 0 for the oldest (ACT, Zhao et al. 2023, arXiv:2304.13705,
    algorithm 2).

    Args:
        decide: the policy.
        m: how quickly newer predictions count less; ACT has 0.01.
    """

    def __init__(self, decide: Decide, m: float = 0.01) -> None:
        if not np.isfinite(m):
            raise UsageError(f"the weight of temporal ensembling must be finite, got {m}")
        self._decide, self._m = decide, m
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._mean: np.ndarray | None = None  # (h, A), of this control step and those that follow
        self._weight = np.empty(0)  # (h,), sum of the weights in each mean
        self._count = np.empty(0)  # (h,), predictions in each mean

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Return the average for this control step."""
        new = np.asarray(self._decide(observation), dtype=np.float64)
        if self._mean is None:
            self._mean, self._weight, self._count = np.zeros_like(new), np.zeros(len(new)), np.zeros(len(new))
        added = np.exp(-self._m * self._count)
        total = self._weight + added
        self._mean = (self._mean * self._weight[:, None] + new * added[:, None]) / total[:, None]
        action: np.ndarray = self._mean[0].copy()
        self._mean = np.concatenate([self._mean[1:], np.zeros((1, new.shape[1]))])
        self._weight = np.append(total[1:], 0.0)
        self._count = np.append(self._count[1:] + 1.0, 0.0)
        return action


class MostCoherent:
    """Of several decisions for the same observation, the one that goes on best with the decision before.

    A policy that decides from noise may go left now where it meant to go right a moment ago. Taken is the
    decision with the smallest squared distance to the old one over the control steps that both have: the
    backward coherence of bidirectional decoding (Liu et al. 2024, arXiv:2408.17355), all steps counting
    alike, as nobody knows yet in which the new decision will take over.

    Args:
        decide: the policy.
        candidates: decisions to choose from, at least 1.
        scale: (A,) what counts as a distance of 1.
    """

    def __init__(self, decide: Decide, candidates: int, scale: np.ndarray) -> None:
        self._decide, self._candidates, self._scale = decide, candidates, scale

    def __call__(self, observation: np.ndarray, rest: np.ndarray | None) -> np.ndarray:
        """Return the decision (h, A)."""
        if rest is None or len(rest) == 0:
            return self._decide(observation)
        made = [self._decide(observation) for _ in range(self._candidates)]
        return min(made, key=lambda new: float(np.square((new[: len(rest)] - rest) / self._scale).sum()))


class RealTimeChunks:
    """Decides in another thread while the actions of the last decision are played.

    A decision starts once `execute` actions of the last one are played. While it is made the old one is
    played on; when it comes, d control steps later, its first d actions are those that are over, and it is
    played from its d-th. This is the execution of real-time chunking (Black et al. 2025, arXiv:2506.07339,
    algorithm 1); the old actions are not fed to the network, `decide` is told them and may choose by them.

    Args:
        decide: the policy; it runs in one other thread.
        horizon: h.
        execute: actions of a decision that are played before the next one starts, 1 to h - 1.
        hold_steps: control steps for which the last action is held when none is left.
        executor: runs `decide`; a thread of its own by default.

    Raises:
        UsageError: a horizon of 1, or `execute` out of range.
    """

    def __init__(
        self,
        decide: GoOn,
        horizon: int,
        execute: int,
        hold_steps: int = 3,
        executor: Executor | None = None,
    ) -> None:
        if not 1 <= execute < horizon:
            raise UsageError(
                f"real-time chunking needs 1 <= execute < {horizon} (actions of a decision), got {execute}"
            )
        self._decide, self._execute, self._hold_steps = decide, execute, hold_steps
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="decide")
        self._pending: Future[np.ndarray] | None = None
        self.worst_delay = 0
        self.reset()

    def reset(self) -> None:
        """Forget the decision and whatever is being decided."""
        self._chunk: np.ndarray | None = None
        self._position = self._since = self._held = 0

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Return the next action.

        Raises:
            UnderrunError: none is left and none has come for more than `hold_steps` control steps.
        """
        if self._chunk is not None:
            self._collect()
        if self._chunk is None:  # nothing to play on: wait for the first decision
            if self._pending is not None:  # of before a reset; the policy may not be asked twice at a time
                wait([self._pending])
                self._pending = None
            self._chunk, self._position = self._decide(observation, None), 0
        elif self._pending is None and self._position >= self._execute:
            rest = self._chunk[self._position :]
            self._pending = self._executor.submit(self._decide, np.array(observation), rest)
            self._since = 0
        self._since += 1
        if self._position < len(self._chunk):
            self._held = 0
            self._position += 1
        else:
            self._held += 1
            if self._held > self._hold_steps:
                raise UnderrunError(
                    f"no action is left, the next decision takes longer than {self._since - 1} control steps"
                )
        action: np.ndarray = self._chunk[self._position - 1]
        return action

    def _collect(self) -> None:
        """Change to a decision that has come."""
        if self._pending is None or not self._pending.done():
            return
        made, self._pending = self._pending, None  # one that failed is told once
        self._chunk = made.result()
        # begun `since` control steps ago, for the action of that step
        self._position, self._held = min(self._since, len(self._chunk)), 0
        self.worst_delay = max(self.worst_delay, self._since)
