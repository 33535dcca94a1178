"""How well a bundle does: in each simulator, and as delay, friction, mass and noise are changed.

What is driven is the exported network, not the training policy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from robotrl import __version__
from robotrl.core.config import check_seed
from robotrl.core.errors import RobotrlError, UsageError, unknown_name
from robotrl.core.files import write_aside
from robotrl.deploy.bundle import Bundle
from robotrl.envs.foreign.task import ForeignTask
from robotrl.export.bundle import ROBUSTNESS_FILE, ROBUSTNESS_PICTURE
from robotrl.export.description import rebuild_task
from robotrl.export.verify import Check
from robotrl.sim.sim import MakeSim
from robotrl.tasks.task import Task
from robotrl.training.dm_control_original import original_of
from robotrl.training.evaluation import Evaluation, evaluate_controller
from robotrl.training.play import bundle_controller
from robotrl.training.run_folder import write_json
from robotrl.training.sweeps import Sweep, changed

SIMS = ("cpu", "warp", "warp_cpu", "dm_control")
"""MuJoCo; mujoco-warp in float32 on a GPU; the same without one, for small tasks; dm_control's own task."""
ORIGINAL = SIMS[-1]
# of the nominal return, which a policy may lose before it counts as disturbed
LOSS = 0.2
# by which the means of two simulators may differ even where many episodes tell them apart
_SAME = 0.1


@dataclass(frozen=True)
class Score:
    """Mean return of some episodes with its 95 % interval (bootstrap).

    Attributes:
        mean: None where every episode diverged.
        low: lower end.
        high: upper end.
        diverged: episodes whose simulation diverged; they are left out.
    """

    mean: float | None
    low: float | None
    high: float | None
    diverged: int

    @classmethod
    def of(cls, evaluation: Evaluation) -> Score:
        """Summarise episodes."""
        mean, low, high = (
            value if math.isfinite(value) else None for value in (evaluation.mean, *evaluation.interval())
        )
        return cls(mean, low, high, int((~evaluation.valid).sum()))

    def __str__(self) -> str:
        """Return it for people."""
        if self.mean is None:
            return "every episode diverged"
        lost = f", {self.diverged} episodes diverged" if self.diverged else ""
        return f"{self.mean:.6g} (95 % interval {self.low:.6g} to {self.high:.6g}){lost}"


@dataclass
class Robustness:
    """What was measured.

    Attributes:
        episodes: behind every score.
        seed: of the episodes.
        simulators: name -> score in the task as it is.
        sweeps: quantity -> {"unit", "values", "scores"}.
        delay_margin_s: longest swept delay up to which the mean return loses less than a fifth, s; None where
            no delay was swept.
    """

    episodes: int
    seed: int
    simulators: dict[str, Score] = field(default_factory=dict)
    sweeps: dict[str, dict[str, Any]] = field(default_factory=dict)
    delay_margin_s: float | None = None


def measure(
    path: Path,
    sims: Sequence[str],
    sweeps: Sequence[Sweep],
    episodes: int,
    seed: int = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> Robustness:
    """Let a bundle control fresh episodes.

    Args:
        path: the bundle.
        sims: of `SIMS`; sweeps are made in the first.
        sweeps: what to change.
        episodes: behind every score, at least 2.
        seed: of the episodes.
        tell: told of every score.

    Raises:
        UsageError: no such simulator, another library's task, or a sweep that changes nothing there.
        RobotrlError: the bundle or its task is damaged, or the network commands what is outside its limits.
    """
    for sim in sims:
        if sim not in SIMS:
            raise unknown_name("simulator", sim, SIMS)
    if episodes < 2:
        raise UsageError(f"--episodes must be at least 2, got {episodes}")
    check_seed(seed)
    bundle = Bundle.load(path)
    task = rebuild_task(bundle.contract.task)
    if isinstance(task, ForeignTask):
        raise UsageError(f"only robotrl's own tasks can be simulated and changed here, not {task.name}")
    variants = [(sweep, [changed(task, sweep, value) for value in sweep.values]) for sweep in sweeps]
    if sweeps and sims[0] == ORIGINAL:
        raise UsageError(f"--sweep changes robotrl's own tasks: name another simulator before {ORIGINAL}")
    original = original_of(task, bundle.contract.task["name"]) if ORIGINAL in sims else task
    make_sims = {sim: _make_sim(sim) for sim in sims}
    result = Robustness(episodes, seed)

    def score(variant: Task, sim: str, label: str) -> Score:
        controller = bundle_controller(bundle, variant, seed)
        run = original if sim == ORIGINAL else variant
        found = Score.of(evaluate_controller(controller, run, episodes, seed, make_sim=make_sims[sim]))
        tell(f"{label}: {found}")
        return found

    for sim in sims:
        result.simulators[sim] = score(task, sim, sim)
    for sweep, tasks in variants:
        scores = [
            result.simulators[sims[0]]  # known already
            if value == sweep.nominal
            else score(variant, sims[0], f"{sweep.name} {value:.4g}")
            for variant, value in zip(tasks, sweep.values, strict=True)
        ]
        result.sweeps[sweep.name] = {"unit": sweep.unit, "values": sweep.values, "scores": scores}
    if "delay" in result.sweeps:
        swept = result.sweeps["delay"]
        result.delay_margin_s = delay_margin_s(result.simulators[sims[0]], swept["values"], swept["scores"])
    return result


def threshold(nominal: Score) -> float:
    """Return the mean return that a fifth less than nominal is; below it, whatever the sign."""
    assert nominal.mean is not None
    return nominal.mean - LOSS * abs(nominal.mean)


def delay_margin_s(nominal: Score, values: Sequence[float], scores: Sequence[Score]) -> float:
    """Return the longest delay such that up to it the mean return loses less than a fifth, s.

    Args:
        nominal: score without the delay.
        values: increasing delays, s.
        scores: with them.
    """
    margin = 0.0
    for value, score in zip(values, scores, strict=True):
        if nominal.mean is None or score.mean is None or not score.mean > threshold(nominal):
            break
        margin = value
    return margin


def checks(result: Robustness, required_delay_margin_s: float | None = None) -> list[Check]:
    """Return what has to hold of a measurement.

    Nothing diverges in the nominal task; every simulator agrees with the first one, within the 95 %
    intervals or a tenth of the return; the delay margin is what is required.
    """
    (first, nominal), *others = result.simulators.items()
    found = [Check(f"return in {first}", nominal.mean is not None and not nominal.diverged, str(nominal))]
    for sim, score in others:
        alike = score.mean is not None and nominal.mean is not None and not score.diverged
        if alike:
            halves = [(one.high - one.low) / 2 for one in (nominal, score)]  # type: ignore[operator]
            accepted = max(math.hypot(*halves), _SAME * abs(nominal.mean or 0.0))
            alike = abs((score.mean or 0.0) - (nominal.mean or 0.0)) <= accepted
        found.append(Check(f"return in {sim}", alike, f"{score}; {first} {nominal}"))
    if result.delay_margin_s is not None:
        margin = result.delay_margin_s
        needed = f", required {required_delay_margin_s:g} s" if required_delay_margin_s is not None else ""
        enough = required_delay_margin_s is None or margin >= required_delay_margin_s
        longest = result.sweeps["delay"]["values"][-1]
        detail = f"{margin:g} s of the {longest:g} s swept, the return within a fifth of nominal{needed}"
        found.append(Check("delay margin", enough, detail))
    return found


def refuse_existing(out: Path) -> None:
    """Raise UsageError where results of an earlier measurement, or files named so, are in a folder."""
    for file in (out / ROBUSTNESS_FILE, out / ROBUSTNESS_PICTURE):
        if file.exists():
            raise UsageError(f"{file} exists: give --out another folder")


def save(result: Robustness, bundle: Path, out: Path | None) -> list[Path]:
    """Write `robustness.json` and, if something was swept, `robustness.png`; return their paths.

    Args:
        result: what was measured.
        bundle: where they go by default, in place of older ones.
        out: a folder to put them in instead, where they must not be yet.

    Raises:
        UsageError: a file of that name is in `out`.
        RobotrlError: they cannot be written.
    """
    folder = bundle if out is None else out
    files = [folder / ROBUSTNESS_FILE] + ([folder / ROBUSTNESS_PICTURE] if result.sweeps else [])
    if out is not None:
        refuse_existing(out)
    contract = Bundle.load(bundle, check_golden=False).contract
    origin = {"policy_sha256": contract.policy_sha256, "task": contract.task, "robotrl_version": __version__}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ROBUSTNESS_PICTURE).unlink(missing_ok=True)  # of an earlier measurement
        write_json(files[0], origin | asdict(result))
        if result.sweeps:
            write_aside(files[1], lambda aside: _draw(result, aside))
    except OSError as error:
        raise RobotrlError(f"cannot write into {folder}: {error.strerror or error}") from error
    return files


def _draw(result: Robustness, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(result.sweeps), 3.4), layout="constrained")
    panels = figure.subplots(1, len(result.sweeps), squeeze=False, sharey=True)[0]
    nominal = next(iter(result.simulators.values()))
    for panel, (name, sweep) in zip(panels, result.sweeps.items(), strict=True):
        known = [
            (value, score)
            for value, score in zip(sweep["values"], sweep["scores"], strict=True)
            if score.mean is not None
        ]
        x = [value * (1e3 if name == "delay" else 1.0) for value, _ in known]
        panel.fill_between(x, [s.low for _, s in known], [s.high for _, s in known], alpha=0.25)
        panel.plot(x, [s.mean for _, s in known], marker="o", markersize=3)
        if nominal.mean is not None:
            panel.axhline(nominal.mean, color="0.4", linewidth=0.8, label="nominal")
            panel.axhline(threshold(nominal), color="0.4", linewidth=0.8, linestyle="--", label="80 %")
        panel.set_xlabel("added action delay, ms" if name == "delay" else f"{name}, times nominal")
    panels[0].set_ylabel(f"return, mean of {result.episodes}, 95 % interval")
    panels[0].legend(frameon=False)
    figure.savefig(path, format="png", dpi=130)


def _make_sim(name: str) -> MakeSim | None:
    if name in ("cpu", ORIGINAL):
        return None
    if name == "warp" and not torch.cuda.is_available():
        raise UsageError(
            "--sim warp needs a CUDA GPU and torch sees none: use cpu, or warp_cpu, which is far slower"
        )
    from robotrl.sim.warp_sim import WarpSim  # an extra, and seconds to import

    return functools.partial(WarpSim, device="cuda" if name == "warp" else "cpu")
