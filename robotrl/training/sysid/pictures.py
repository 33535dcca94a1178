"""Measured and simulated signals, before and after the fit: pictures and one HTML page."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from robotrl.training.sysid.estimates import Estimate
from robotrl.training.sysid.fit import Fit
from robotrl.training.sysid.prediction import Predictor, Recording

_COLUMNS = 2
_MEASURED, _BEFORE, _AFTER = "#444444", "#d9822b", "#1f6fb2"


def draw_fits(folder: Path, predictor: Predictor, fit: Fit) -> None:
    """Write a picture of each recording, fit_1.png and so on."""
    for i, recording in enumerate(predictor.recordings):
        figure = _figure(recording, fit.before[i], fit.after[i])
        figure.savefig(folder / f"fit_{i + 1}.png", dpi=100)


def _figure(recording: Recording, before: np.ndarray, after: np.ndarray) -> Figure:
    count = len(recording.signals)
    width = min(_COLUMNS, count)
    height = math.ceil(count / width)
    figure = Figure(figsize=(7.0 * width, 2.6 * height + 0.6), layout="constrained")
    figure.suptitle(recording.log.path.name)
    for i, (signal, axes) in enumerate(
        zip(recording.signals, figure.subplots(height, width, squeeze=False).flat, strict=False)
    ):
        axes.plot(recording.time_s, recording.measured[:, i], ".", ms=2, color=_MEASURED, label="measured")
        axes.plot(recording.time_s, before[:, i], lw=1, color=_BEFORE, label="nominal model")
        axes.plot(recording.time_s, after[:, i], lw=1, color=_AFTER, label="identified model")
        # a nominal model that runs away must not hide the rest
        measured = recording.measured[np.isfinite(recording.measured[:, i]), i]
        if len(measured):
            room = 0.3 * np.ptp(measured) or 1.0
            axes.set_ylim(measured.min() - room, measured.max() + room)
        axes.set_title(signal.name, fontsize=9)
        axes.set_ylabel(signal.unit)
    for axes in figure.axes[count:]:
        axes.set_visible(False)
    figure.axes[0].legend(loc="upper right", fontsize=8)
    figure.axes[count - 1].set_xlabel("time, s")
    return figure


def write_page(path: Path, predictor: Predictor, fit: Fit, estimates: list[Estimate]) -> None:
    """Write a page from the sections of `mujoco.sysid`'s report, which opens without a network."""
    from mujoco.sysid import ParameterDict, SignalType, TimeSeries
    from mujoco.sysid.report.builder import ReportBuilder
    from mujoco.sysid.report.sections.covariance import Covariance
    from mujoco.sysid.report.sections.group import GroupSection
    from mujoco.sysid.report.sections.parameter_distribution import ParameterDistribution
    from mujoco.sysid.report.sections.parameters import ParametersTable
    from mujoco.sysid.report.sections.signals import SignalReport
    from mujoco.sysid.report.utils import plotly_script_tag
    from plotly.offline import get_plotlyjs

    def only_unknowns(parameters: ParameterDict) -> ParameterDict:
        return ParameterDict({each.unknown.name: parameters[each.unknown.name] for each in estimates})

    nominal, fitted = only_unknowns(fit.nominal), only_unknowns(fit.fitted)
    half_widths = np.array([each.half_width for each in estimates])
    builder = ReportBuilder("System identification")
    builder.add_section(ParametersTable("Parameters", fitted, nominal, anchor="parameters"))
    builder.add_section(
        ParameterDistribution("Estimates in their ranges", fitted, nominal, half_widths, anchor="estimates")
    )
    builder.add_section(Covariance("Covariance and correlation", fit.covariance, fitted, anchor="covariance"))
    sections = []
    for recording, before, after in zip(predictor.recordings, fit.before, fit.after, strict=True):
        mapping = {s.name: (SignalType.CustomObs, np.array([i])) for i, s in enumerate(recording.signals)}
        tables = {"measured": recording.measured, "nominal": before, "identified": after}
        series = {name: TimeSeries(recording.time_s, table, mapping) for name, table in tables.items()}
        sections.append(SignalReport(recording.log.path.name, predictor.model, ts_dict=series))
    builder.add_section(GroupSection("Signals", sections, anchor="signals"))
    page = builder.build().replace(plotly_script_tag(), f"<script>{get_plotlyjs()}</script>")
    path.write_text(page, encoding="utf-8")
