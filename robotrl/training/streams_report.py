"""What a report shows of a run whose environments are streams with a learner each."""

from __future__ import annotations

from typing import Any

import numpy as np

from robotrl.training.charts import Series, line_chart

STREAMS_FILE = "streams.json"
_RESAMPLES = 1_000


def streams_section(document: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the chart and the table of a `streams.json`, None for a run without streams.

    The chart shows the windows in which every stream ended an episode, and is None if there are none. The
    band is the 95 % bootstrap interval of the mean over streams, window by window.
    """
    if document is None:
        return None
    streams = document["streams"]
    section = {"chart": None, "rows": streams, "shown": document["shown"]}
    curves = np.array([stream["curve"] for stream in streams], dtype=float)
    steps = (np.arange(curves.shape[1]) + 1) / curves.shape[1] * document["env_steps_per_stream"]
    whole = ~np.isnan(curves).any(0)
    if not whole.any():
        return section
    picks = np.random.default_rng(0).integers(len(streams), size=(_RESAMPLES, len(streams)))
    low, high = np.percentile(curves[:, whole][picks].mean(1), [2.5, 97.5], axis=0)
    band = (low, high) if len(streams) > 1 else (None, None)
    curve = Series("mean of the streams", steps[whole], curves[:, whole].mean(0), *band)
    return section | {"chart": line_chart([curve], 960, 280)}
