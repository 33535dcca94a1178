"""Fields of configurations hold numbers, whole ones where they are annotated so, None where that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robotrl.algorithms.off_policy.sac import SACConfig
from robotrl.algorithms.streaming.config import StreamACConfig, StreamQConfig
from robotrl.core.config import RunOptions


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        (StreamACConfig, {"gamma": None}, "gamma must be a number, got None"),
        (StreamACConfig, {"actor_eta": None}, "actor_eta must be a number, got None"),
        (StreamACConfig, {"gamma": "0.9"}, "gamma must be a number, got '0.9'"),
        (StreamACConfig, {"gamma": False}, "gamma must be a number, got False"),
        (StreamACConfig, {"hidden": [64.5, 64]}, r"hidden: layer widths .* whole, got \[64.5, 64\]"),
        (StreamACConfig, {"hidden": 128}, "hidden: layer widths .* got 128"),
        (StreamACConfig, {"hidden": ["64"]}, "hidden: layer widths .* got "),
        (SACConfig, {"gamma": None}, "gamma must be a number, got None"),
        (SACConfig, {"batch_size": 1.5}, "batch_size must be a whole number, got 1.5"),
        (SACConfig, {"batch_size": None}, "batch_size must be a whole number, got None"),
        (RunOptions, {"num_envs": 1.5}, "num_envs must be a whole number, got 1.5"),
    ],
)
def test_what_is_no_number_is_refused(config: type, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(**options)


def test_none_passes_where_it_is_annotated_and_numbers_of_any_type_do() -> None:
    assert RunOptions(num_envs=None).num_envs is None
    assert StreamQConfig(repeat_exponent=None, update_budget_s=None).repeat_exponent is None
    config = StreamACConfig(gamma=0, trace_lambda=np.float32(0.5), actor_rest_steps=np.int64(3))
    assert (config.gamma, config.trace_lambda, config.actor_rest_steps) == (0, 0.5, 3)
