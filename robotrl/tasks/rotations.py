"""Rotations of N simulations at once; quaternions are unit and w, x, y, z, as MuJoCo's."""

from __future__ import annotations

import torch
from torch import Tensor

# entries of the matrix, row by row, as sums of products of two components: factor, first, second
_PRODUCTS = (
    ((1, 0, 0), (1, 1, 1), (-1, 2, 2), (-1, 3, 3)), ((2, 1, 2), (-2, 0, 3)), ((2, 1, 3), (2, 0, 2)),
    ((2, 1, 2), (2, 0, 3)), ((1, 0, 0), (-1, 1, 1), (1, 2, 2), (-1, 3, 3)), ((2, 2, 3), (-2, 0, 1)),
    ((2, 1, 3), (-2, 0, 2)), ((2, 2, 3), (2, 0, 1)), ((1, 0, 0), (-1, 1, 1), (-1, 2, 2), (1, 3, 3)),
)  # fmt: skip


def _weights() -> Tensor:
    """(16, 9) from all products of two components to the entries."""
    weights = torch.zeros(4, 4, 9, dtype=torch.float64)
    for entry, products in enumerate(_PRODUCTS):
        for factor, first, second in products:
            weights[first, second, entry] = factor
    return weights.flatten(0, 1)


_WEIGHTS = _weights()
_WEIGHTS_UP = _WEIGHTS[:, 2::3].contiguous()


def rotation_matrix(quaternion: Tensor) -> Tensor:
    """(N, 3, 3) matrices of (N, 4) quaternions: columns are the body's axes in the world."""
    return (_outer(quaternion) @ _WEIGHTS.to(quaternion)).unflatten(1, (3, 3))


def up_axis(quaternion: Tensor) -> Tensor:
    """(N, 3) z axes of the bodies in the world, of (N, 4) quaternions."""
    return _outer(quaternion) @ _WEIGHTS_UP.to(quaternion)


def _outer(quaternion: Tensor) -> Tensor:
    return (quaternion.unsqueeze(2) * quaternion.unsqueeze(1)).flatten(1)
