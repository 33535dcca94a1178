"""From logs to a fitted model, its uncertainty and a realism section to train with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from robotrl import __version__
from robotrl.core.errors import UsageError
from robotrl.core.files import new_folder, writable_parent
from robotrl.training.run_folder import write_json
from robotrl.training.sysid.deployment_log import read_deployment
from robotrl.training.sysid.estimates import Estimate, estimates_of, realism_yaml
from robotrl.training.sysid.fit import Fit, fit, toolbox
from robotrl.training.sysid.identified_model import read_spec, write_model
from robotrl.training.sysid.log import read_log
from robotrl.training.sysid.parameters import read_parameters, unknowns_of
from robotrl.training.sysid.pictures import draw_fits, write_page
from robotrl.training.sysid.prediction import Predictor


@dataclass(frozen=True)
class Residual:
    """How far a signal is from what was measured, over all logs.

    Args:
        signal: name of its column.
        unit: "" where it is not known.
        before: root mean square of the nominal model's error.
        after: of the fitted model's.
        spread: standard deviation of what was measured.
    """

    signal: str
    unit: str
    before: float
    after: float
    spread: float


@dataclass(frozen=True)
class Identification:
    """What `identify` found and where it wrote it."""

    folder: Path
    estimates: list[Estimate]
    residuals: list[Residual]


def identify(
    logs: Sequence[Path], model: Path, parameters: Path, out: Path, interval_factor: float = 2.0
) -> Identification:
    """Fit a model to logs and write what was found into a new folder.

    The folder holds identified.xml, estimates.json, realism.yaml, report.html and a picture of each log.

    Args:
        logs: CSV files (`robotrl.training.sysid.log`) or MCAP files of `robotrl deploy`.
        model: MJCF file.
        parameters: YAML file (`robotrl.training.sysid.parameters.Parameters`).
        out: folder to make.
        interval_factor: what training draws from: estimate -+ this many half-widths of the 95 % interval.

    Raises:
        UsageError: a file is missing or wrong, the files do not fit each other, or the folder exists.
        RobotrlError: a log cannot be read, or MJCF cannot hold the fitted model.
    """
    if not (math.isfinite(interval_factor) and interval_factor > 0.0):
        raise UsageError(f"the interval factor must be above 0, got {interval_factor}")
    if out.exists():
        raise UsageError(f"{out} exists and is left as it is: name another folder with --out")
    with writable_parent(out):
        toolbox()
        spec = read_spec(model)
        compiled = spec.compile()
        unknowns = unknowns_of(compiled, read_parameters(parameters))
        read = [
            read_deployment(path, compiled) if path.suffix == ".mcap" else read_log(path) for path in logs
        ]
        predictor = Predictor(spec, read, unknowns)
        found = fit(predictor)
        estimates = estimates_of(unknowns, found, interval_factor, float(predictor.model.opt.timestep))
        residuals = _residuals(predictor, found)
        with new_folder(out) as folder:
            write_model(folder / "identified.xml", model, unknowns, found.values)
            (folder / "realism.yaml").write_text(realism_yaml(estimates, interval_factor), encoding="utf-8")
            document = {
                "robotrl_version": __version__,
                "mujoco_version": mujoco.__version__,
                "model": model.name,
                "logs": [path.name for path in logs],
                "interval_factor": interval_factor,
                "estimates": [each.as_json() for each in estimates],
                "correlation": found.correlation.tolist(),
                "residuals": [vars(each) for each in residuals],
            }
            write_json(folder / "estimates.json", document)
            draw_fits(folder, predictor, found)
            write_page(folder / "report.html", predictor, found, estimates)
    return Identification(out, estimates, residuals)


def _residuals(predictor: Predictor, found: Fit) -> list[Residual]:
    columns: dict[tuple[str, str], list[np.ndarray]] = {}
    for recording, before, after in zip(predictor.recordings, found.before, found.after, strict=True):
        table = np.stack([before - recording.measured, after - recording.measured, recording.measured])
        known = np.isfinite(recording.measured)
        for i, signal in enumerate(recording.signals):
            columns.setdefault((signal.name, signal.unit), []).append(table[:, known[:, i], i])
    residuals = []
    for (name, unit), tables in columns.items():
        before, after, measured = np.concatenate(tables, axis=1)
        if len(measured):
            errors = np.sqrt((before**2).mean()), np.sqrt((after**2).mean()), measured.std()
            residuals.append(Residual(name, unit, *map(float, errors)))
    return residuals
