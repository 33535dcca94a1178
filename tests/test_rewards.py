"""`tolerance` against hand-computed numbers and against dm_control's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robotrl.core.errors import UsageError
from robotrl.tasks.rewards import SIGMOIDS, _fall, tolerance

# distance outside the bounds / margin -> value, with value_at_margin = 0.2
BY_HAND = {
    # 0.2 ** (d * d)
    "gaussian": {0.0: 1.0, 0.5: 0.2**0.25, 1.0: 0.2, 2.0: 0.2**4},
    # cosh(2 y) = 2 cosh(y)^2 - 1 with cosh(y) = 5
    "hyperbolic": {0.0: 1.0, 1.0: 0.2, 2.0: 1 / 49},
    # 1 / (1 + 4 d^2)
    "long_tail": {0.0: 1.0, 0.5: 0.5, 1.0: 0.2, 3.0: 1 / 37},
    # 1 / (1 + 4 d)
    "reciprocal": {0.0: 1.0, 0.5: 1 / 3, 1.0: 0.2, 3.0: 1 / 13},
    # 1 - 0.8 d
    "linear": {0.0: 1.0, 0.5: 0.6, 1.0: 0.2, 1.25: 0.0, 9.0: 0.0},
    # 1 - 0.8 d^2
    "quadratic": {0.0: 1.0, 0.5: 0.8, 1.0: 0.2, 1.2: 0.0, 9.0: 0.0},
}


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_values_computed_by_hand(sigmoid: str) -> None:
    for distance, expected in BY_HAND[sigmoid].items():
        # bounds [-1, 3], margin 2: above, below
        x = torch.tensor([3 + 2 * distance, -1 - 2 * distance], dtype=torch.float64)
        value = tolerance(x, (-1.0, 3.0), margin=2.0, sigmoid=sigmoid, value_at_margin=0.2)
        np.testing.assert_allclose(value.numpy(), [expected, expected], rtol=0, atol=1e-14)


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_is_exactly_one_inside_the_inclusive_bounds(sigmoid: str) -> None:
    x = torch.tensor([-1.0, 0.3, 3.0], dtype=torch.float64)
    assert tolerance(x, (-1.0, 3.0), margin=0.7, sigmoid=sigmoid).tolist() == [1.0, 1.0, 1.0]


def test_no_margin_is_an_indicator() -> None:
    x = torch.tensor([-1.1, -1.0, 0.0, 3.0, 3.1, math.nan], dtype=torch.float64)
    assert tolerance(x, (-1.0, 3.0)).tolist() == [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
@pytest.mark.parametrize("bounds", [(-0.5, 0.75), (0.25, math.inf), (-math.inf, -1.0), (0.0, 0.0)])
def test_same_as_dm_control(sigmoid: str, bounds: tuple[float, float]) -> None:
    rewards = pytest.importorskip("dm_control.utils.rewards")
    rng = np.random.default_rng(5)
    x = rng.normal(scale=3.0, size=2000)
    lowest = 0.0 if sigmoid in ("linear", "quadratic") else 0.05
    for margin, value_at_margin in zip(rng.uniform(0.1, 4, 20), rng.uniform(lowest, 0.95, 20), strict=True):
        expected = rewards.tolerance(x, bounds, margin, sigmoid, value_at_margin)
        value = tolerance(torch.from_numpy(x), bounds, margin, sigmoid, value_at_margin)
        np.testing.assert_allclose(value.numpy(), expected, rtol=0, atol=1e-12)
    zero = {"linear": 0.0, "quadratic": 0.0}.get(sigmoid, 0.1)
    expected = rewards.tolerance(x, bounds, 1.0, sigmoid, zero)
    value = tolerance(torch.from_numpy(x), bounds, 1.0, sigmoid, zero)
    np.testing.assert_allclose(value.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
@pytest.mark.parametrize("bounds", [(-0.5, 0.75), (0.25, math.inf), (-math.inf, -1.0), (0.0, 0.0)])
def test_same_in_torch_for_devices_other_than_the_cpu(sigmoid: str, bounds: tuple[float, float]) -> None:
    x = 3 * torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    in_torch = _fall(x, bounds, 1.7, sigmoid, 0.3, torch)
    np.testing.assert_allclose(tolerance(x, bounds, 1.7, sigmoid, 0.3), in_torch, rtol=0, atol=1e-15)


def test_margin_may_differ_between_simulations() -> None:
    x, margin = torch.full((2,), 3.0, dtype=torch.float64), torch.tensor([2.0, 4.0], dtype=torch.float64)
    value = tolerance(x, (0.0, 1.0), margin=margin, sigmoid="linear", value_at_margin=0.5)
    np.testing.assert_allclose(value.numpy(), [0.5, 0.75], atol=1e-15)


def test_impossible_requests_are_refused() -> None:
    x = torch.zeros(3)
    with pytest.raises(ValueError, match="above upper bound"):
        tolerance(x, (1.0, 0.0))
    with pytest.raises(ValueError, match="margin must be 0 or above"):
        tolerance(x, margin=-1.0)
    with pytest.raises(UsageError, match="did you mean 'gaussian'"):
        tolerance(x, margin=1.0, sigmoid="gausian")
