"""What a deployed policy achieved on a simulated robot, scored as the task scores an episode."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from robotrl.sim.sim import Sim
from robotrl.tasks.task import Task


@dataclass
class Attempt:
    """From the moment when the policy takes over.

    Attributes:
        steps: whole control steps of the robot's own clock.
        duration_s: of these, s.
        total_reward: sum of the task's rewards.
        terminated: whether the task ended it.
        ended_by: who did, for people.
        success: as the task judges at the end; None where it knows no success.
        scores: of the task, at the end.
    """

    steps: int = 0
    duration_s: float = 0.0
    total_reward: float = 0.0
    terminated: bool = False
    ended_by: str = ""
    success: bool | None = None
    scores: dict[str, float] = field(default_factory=dict)

    def add(self, task: Task, sim: Sim, ctrl: Tensor) -> None:
        """Take note of a control step that just ended, of one simulation.

        Args:
            task: that is simulated.
            sim: its state after the step.
            ctrl: (1, A) commands of the step, physical units.
        """
        self.steps += 1
        self.duration_s = self.steps * task.control_dt_s
        self.total_reward += sum(float(term[0]) for term in task.reward_terms(sim, ctrl).values())
        ends = task.terminated(sim)
        self.terminated = ends is not None and bool(ends[0])

    def end(self, task: Task, sim: Sim, by: str) -> Attempt:
        """Return it with what the task says of its end."""
        success = task.success(sim)
        self.success = None if success is None else bool(success[0])
        self.scores = {name: float(value[0]) for name, value in task.scores(sim).items()}
        self.ended_by = by
        return self

    def __str__(self) -> str:
        """Return it for people."""
        results = {"return": self.total_reward} | self.scores
        told = [f"{name} {value:.6g}" for name, value in results.items()]
        if self.success is not None:
            told.append("success" if self.success else "no success")
        return f"{self.duration_s:.2f} s, {', '.join(told)}; ended by {self.ended_by}"
