"""What a run showed, and what it says about trying the policy on hardware."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robotrl.core.files import write_text_aside
from robotrl.deploy.contract import Contract
from robotrl.deploy.runtime.drives import Shaped
from robotrl.deploy.runtime.guards import Event
from robotrl.deploy.runtime.histogram import Histogram
from robotrl.deploy.runtime.rate import Rate

# what a policy may do and still be tried on a robot
MOST_SATURATED = 0.1
MOST_UNFAMILIAR = 0.05
MOST_LATE = 0.001
LEAST_S = 5.0
_MARGIN = 1e-3
DEPLOYMENTS = "deployments"
"""Folder beside a bundle where summaries of its deployments are kept."""


class Statistics:
    """Counts over the control steps in which the policy commanded.

    Args:
        contract: of the policy.
        golden: the bundle's recordings, whose observations say what the policy knows.
    """

    def __init__(self, contract: Contract, golden: Mapping[str, np.ndarray]) -> None:
        known = [golden[name] for name in ("observation", "loop_observation") if name in golden]
        seen = np.concatenate(known).astype(np.float64)
        low, high = seen.min(axis=0), seen.max(axis=0)
        margin = _MARGIN * (high - low) + 1e-6
        self._low, self._high = low - margin, high + margin
        self._contract = contract
        self.age, self.inference = Histogram(), Histogram()
        self.events: list[Event] = []
        self.steps = self._unfamiliar = self._saturated_steps = 0
        self._saturated = np.zeros(len(contract.outputs))
        self._effort = np.full(len(contract.outputs), np.nan)
        self._rate = np.full(len(contract.outputs), np.nan)

    def add(self, observation: np.ndarray, shaped: Shaped, age_s: float, inference_s: float) -> None:
        """Take a control step."""
        self.steps += 1
        self._unfamiliar += int(np.count_nonzero((observation < self._low) | (observation > self._high)))
        self._saturated_steps += int(shaped.saturated.any())
        self._saturated += shaped.saturated
        self._effort = np.fmax(self._effort, shaped.effort_share)
        self._rate = np.fmax(self._rate, shaped.rate_share)
        self.age.add(age_s)
        self.inference.add(inference_s)

    def finish(self, rate: Rate, watchdog_alive: bool, lost: int) -> Summary:
        """Sum up.

        Args:
            rate: of the loop.
            watchdog_alive: whether the watchdog was there to the end.
            lost: control steps and events that are missing in the log.
        """
        steps = max(1, self.steps)
        dt_s = self._contract.control_dt_s
        body = self._contract.robot
        assert dt_s is not None and body is not None
        worst = int(np.argmax(self._saturated))
        return Summary(
            policy_s=self.steps * dt_s,
            control_dt_s=dt_s,
            overruns=rate.overruns,
            periods=rate.lateness.count,
            lateness=rate.lateness.summary(),
            inference=self.inference.summary(),
            age=self.age.summary(),
            trained_delay_s=body.observation_delay_s[1],
            saturated_share=self._saturated_steps / steps,
            most_saturated=(self._contract.outputs[worst].name, float(self._saturated[worst] / steps)),
            effort_share=_largest(self._effort),
            rate_share=_largest(self._rate),
            unfamiliar_share=self._unfamiliar / (steps * len(self._low)),
            events=[str(event) for event in self.events],
            watchdog_alive=watchdog_alive,
            lost=lost,
        )


def _largest(shares: np.ndarray) -> float | None:
    return None if np.isnan(shares).all() else float(np.nanmax(shares))


@dataclass(frozen=True)
class Summary:
    """A run in numbers.

    Attributes:
        policy_s: time under the policy, s.
        control_dt_s: control step, s.
        overruns: periods that began more than one period late, since the robot was armed.
        periods: since then.
        lateness: of the periods' beginnings, see `Histogram.summary`.
        inference: time of a control step's policy.
        age: of the oldest signal when it was acted on.
        trained_delay_s: longest delay of a reading in training, s.
        saturated_share: share of control steps in which a limit changed a command.
        most_saturated: the action that was changed most often, and its share.
        effort_share: largest force asked for as a share of its limit, None where there are no limits.
        rate_share: fastest change of a command as a share of its limit, before it was cut; None without one.
        unfamiliar_share: share of observation values beyond all that the bundle's recordings hold.
        events: of guards.
        watchdog_alive: whether the watchdog was there to the end.
        lost: control steps and events that are missing in the log.
    """

    policy_s: float
    control_dt_s: float
    overruns: int
    periods: int
    lateness: dict[str, float]
    inference: dict[str, float]
    age: dict[str, float]
    trained_delay_s: float
    saturated_share: float
    most_saturated: tuple[str, float]
    effort_share: float | None
    rate_share: float | None
    unfamiliar_share: float
    events: list[str]
    watchdog_alive: bool
    lost: int

    def doubts(self) -> list[str]:
        """Return what speaks against trying this policy on hardware; nothing if it looks safe."""
        found = [f"a guard had to act ({event})" for event in self.events]
        if not self.watchdog_alive:
            found.append("the watchdog ended early")
        if not self.policy_s >= LEAST_S:
            found.append(f"the policy commanded for {self.policy_s:.3g} s only, {LEAST_S:g} s tell something")
        for what, share, most in (
            ("of the control steps a limit changed a command", self.saturated_share, MOST_SATURATED),
            ("of the observation values were beyond the recordings", self.unfamiliar_share, MOST_UNFAMILIAR),
            ("of the periods were overruns", self.overruns / max(1, self.periods), MOST_LATE),
        ):
            if not share <= most:
                found.append(f"in {share:.2%} {what}, {most:.1%} is accepted")
        accepted_s = max(self.trained_delay_s, self.control_dt_s)
        if not self.age["p99_s"] <= accepted_s:
            found.append(
                f"readings were {1e3 * self.age['p99_s']:.3g} ms old (99 %), training had "
                f"{1e3 * self.trained_delay_s:.3g} ms, {1e3 * accepted_s:.3g} ms is accepted"
            )
        return found

    def rows(self) -> list[tuple[str, str]]:
        """Return the lines of a table."""
        gaps = f"{self.lost} control steps and events: the disk was too slow, the log has gaps"
        return [
            *([("missing in the log", gaps)] if self.lost else []),
            ("under the policy", f"{self.policy_s:.1f} s at {1 / self.control_dt_s:g} Hz"),
            ("overruns", f"{self.overruns} of {self.periods} periods"),
            ("lateness", _durations(self.lateness)),
            ("inference", _durations(self.inference)),
            ("age of readings", f"{_durations(self.age)}; trained up to {1e3 * self.trained_delay_s:.3g} ms"),
            (
                "in saturation",
                f"{self.saturated_share:.2%} of the control steps, most of all "
                f"{self.most_saturated[0]} ({self.most_saturated[1]:.2%})",
            ),
            ("force asked for", _share(self.effort_share, "of the effort limit")),
            ("speed of commands", _share(self.rate_share, "of the rate limit")),
            (
                "out of distribution",
                f"{self.unfamiliar_share:.2%} of observation values beyond the recordings",
            ),
            ("guard events", "; ".join(self.events) or "none"),
        ]

    def save(self, path: Path, **origin: Any) -> None:
        """Write what it says in words as JSON, for the report of the run.

        Args:
            path: of the file to make.
            origin: where it comes from, plain data.

        Raises:
            OSError: it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {"rows": self.rows(), "doubts": self.doubts()}
        write_text_aside(path, json.dumps(origin | told, indent=2) + "\n")

    def verdict(self) -> str:
        """Return one line: is this policy safe to try on hardware?"""
        doubts = self.doubts()
        if doubts:
            return f"NOT yet safe to try on hardware: {'; '.join(doubts)}"
        return "safe to try on hardware, with the robot held and a hand on the stop"


def _durations(summary: Mapping[str, float]) -> str:
    shown = {name: 1e3 * summary[f"{name}_s"] for name in ("p50", "p99", "worst")}
    return ", ".join(f"{name} {value:.3g} ms" for name, value in shown.items())


def _share(share: float | None, of: str) -> str:
    return "no limit is known" if share is None else f"at most {share:.1%} {of}"
