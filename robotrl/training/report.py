"""One self-contained HTML page per run: what was trained, how it went, what came out."""

from __future__ import annotations

import base64
import csv
import json
import math
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup

from robotrl.core.catalog import name_of
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.files import write_text_aside
from robotrl.training.charts import Series, histogram, line_chart, short
from robotrl.training.failures import FailureRecording, failure_files
from robotrl.training.hardware_report import hardware_section
from robotrl.training.metrics import read_metrics
from robotrl.training.run_folder import RunFolder
from robotrl.training.streams_report import STREAMS_FILE, streams_section

_TEMPLATES = Path(__file__).parent / "templates"
_PHASES = ("simulation", "policy", "update", "other")
_RATES = ("time/env_steps_per_s", "time/offline_updates_per_s")

Rows = list[dict[str, float]]


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder and return its path; an older report is replaced.

    Whatever a run does not have yet is named as missing in the page.

    Raises:
        UsageError: `run` is not a run folder or has no metrics.
        RobotrlError: a file of the run is damaged, or the page cannot be written.
    """
    folder = RunFolder(run)
    if not folder.metrics_file.is_file():
        raise UsageError(f"run {folder.path} has no metrics.csv: nothing was trained yet")
    try:
        page = _environment().get_template("report.html.j2").render(_content(folder))
    except jinja2.UndefinedError as error:
        raise RobotrlError(f"a JSON file of the run {folder.path} lacks a field: {error}") from error
    try:
        write_text_aside(folder.report, page)
    except OSError as error:
        raise RobotrlError(f"cannot write {folder.report}: {error.strerror}") from error
    return folder.report


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = short
    environment.filters["duration"] = duration
    return environment


def duration(seconds: float) -> str:
    """Write seconds as 42 s, 3 min 20 s or 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _content(folder: RunFolder) -> dict[str, Any]:
    """Collect everything the template shows."""
    config = _read_config(folder.config_file)
    rows = _read(folder.metrics_file, read_metrics)
    last = _last_values(rows)
    wall_s, env_steps = last.get("wall_s", 0.0), last.get("env_steps", 0.0)
    episodes = _episodes(folder.evaluation / "episodes.csv")
    versions = _json(folder.path / "versions.json") or {}
    return {
        "run": str(folder.path),
        "task": config.get("task_name") or "run",
        "algorithm": _algorithm(config.get("algorithm")),
        "seed": config.get("seed"),
        "target": config.get("target_return"),
        "env_steps": env_steps,
        "wall_s": wall_s,
        "steps_per_s": env_steps / wall_s if wall_s > 0 else None,
        "diverged": last.get("sim/diverged", 0.0),
        "diverged_per_million": last.get("sim/diverged_per_million_steps"),
        "failures": [FailureRecording.load(p, facts_only=True) for p in failure_files(folder.failures)],
        "summary": _json(folder.evaluation / "summary.json"),
        "learning": _learning_curve(rows),
        "streams": _read(folder.path / STREAMS_FILE, _streams),
        "terms": _chart(rows, _names(rows, "reward/")),
        "internals": [
            (name, line_chart([one], 320, 150), short(float(one.y[-1])))
            for name in _internal_names(rows)
            if len((one := _series(rows, name)).x)
        ],
        "phases": _phases(last),
        "episodes": episodes,
        "histogram": _histogram(episodes),
        "video": _video(folder.path / "video.mp4"),
        "contract": _json(folder.bundle / "contract.json"),
        "checks": _json(folder.bundle / "verification.json"),
        "hardware": _hardware(folder.bundle),
        "checkpoints": [(path.name, path.stat().st_size) for path in folder.checkpoints()],
        "versions": versions,
        "config": config,
    }


def _learning_curve(rows: Rows) -> dict[str, Any] | None:
    training = _series(rows, "episode/return", "training")
    curves = [training] if len(training.x) else []
    evaluation = _series(rows, "eval/return", "evaluation")
    if len(evaluation.x):
        ends = [_at(rows, f"eval/return_{end}", evaluation) for end in ("low", "high")]
        low, high = ends if all(np.isfinite(end).all() for end in ends) else (None, None)
        curves.append(Series("evaluation", evaluation.x, evaluation.y, low, high, dots=True))
    return {"chart": line_chart(curves, 960, 320), "names": [one.name for one in curves]} if curves else None


def _streams(path: Path) -> dict[str, Any] | None:
    return streams_section(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None)


def _chart(rows: Rows, names: list[str]) -> dict[str, Any] | None:
    curves = [_series(rows, name, name.split("/", 1)[1]) for name in names]
    curves = [one for one in curves if len(one.x)]
    return {"chart": line_chart(curves, 960, 280), "names": [one.name for one in curves]} if curves else None


def _series(rows: Rows, name: str, label: str = "") -> Series:
    """Return where `name` was logged as a finite number."""
    points = [(row["env_steps"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
    x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return Series(label or name, x, y)


def _at(rows: Rows, name: str, other: Series) -> np.ndarray:
    values = {row["env_steps"]: row[name] for row in rows if name in row}
    return np.array([values.get(x, math.nan) for x in other.x])


def _names(rows: Rows, prefix: str) -> list[str]:
    """Return metric names in the order in which they first appear."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name.startswith(prefix)]


def _internal_names(rows: Rows) -> list[str]:
    shown_elsewhere = {"env_steps", "wall_s", "episode/return"}
    return [
        name
        for name in _names(rows, "")
        if name not in shown_elsewhere
        and not name.startswith(("reward/", "eval/"))
        and (name in _RATES or not name.startswith("time/"))
    ]


def _last_values(rows: Rows) -> dict[str, float]:
    return {name: value for row in rows for name, value in row.items()}


def _phases(last: dict[str, float]) -> list[dict[str, Any]]:
    """Return the split of the wall time: name, seconds, share; known phases first."""
    seconds = {
        name.removeprefix("time/").removesuffix("_s"): value
        for name, value in last.items()
        if name.startswith("time/") and name not in _RATES
    }
    order = sorted(seconds, key=lambda name: _PHASES.index(name) if name in _PHASES else len(_PHASES))
    total = sum(seconds.values())
    return [{"name": name, "s": seconds[name], "share": seconds[name] / total} for name in order if total > 0]


def _episodes(path: Path) -> list[dict[str, str]]:
    def rows(file: Path) -> list[dict[str, str]]:
        with open(file, newline="", encoding="utf-8") as stream:
            found = list(csv.DictReader(stream))
        for row in found:
            float(row["return"])
        return found

    return _read(path, rows) if path.is_file() else []


def _histogram(episodes: list[dict[str, str]]) -> Markup | None:
    returns = np.array([float(row["return"]) for row in episodes if row.get("valid", "True") == "True"])
    returns = returns[np.isfinite(returns)]
    return histogram(returns) if len(returns) else None


def _video(path: Path) -> str | None:
    return base64.b64encode(_read(path, Path.read_bytes)).decode() if path.is_file() else None


def _read_config(path: Path) -> dict[str, Any]:
    config = _read(path, lambda file: yaml.safe_load(file.read_text(encoding="utf-8")))
    if not isinstance(config, dict):
        raise RobotrlError(f"{path} is not a configuration: expected keys and values")
    return config


def _hardware(bundle: Path) -> dict[str, Any] | None:
    """Return what speaks for and against trying the bundle on a robot."""
    contract = _json(bundle / "contract.json")
    section = None if contract is None else hardware_section(bundle, contract, _json)
    if section is not None and section["picture"] is not None:
        picture = base64.b64encode(section["picture"].read_bytes()).decode()
        section["picture"] = Markup(f"data:image/png;base64,{picture}")
    return section


def _json(path: Path) -> Any:
    return _read(path, lambda file: json.loads(file.read_text(encoding="utf-8"))) if path.is_file() else None


def _read(path: Path, reader: Any) -> Any:
    try:
        return reader(path)
    except OSError as error:
        raise RobotrlError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, csv.Error, yaml.YAMLError) as error:
        raise RobotrlError(f"{path} is damaged: {' '.join(str(error).split())}") from error


def _algorithm(section: Any) -> str:
    target = str(section.get("_target_", "")) if isinstance(section, dict) else ""
    return name_of("algorithm", target) or target.replace(":", ".").rsplit(".", 1)[-1]
