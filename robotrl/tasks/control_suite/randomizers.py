"""Random initial poses, as in dm_control's `randomize_limited_and_rotational_joints`."""

from __future__ import annotations

import math
from collections.abc import Callable

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import RobotrlError
from robotrl.sim.sim import Sim

_HINGE, _SLIDE = int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)
_BALL, _FREE = int(mujoco.mjtJoint.mjJNT_BALL), int(mujoco.mjtJoint.mjJNT_FREE)

MAX_ROUNDS = 2000
# 0 to 2.55 m; added up, since upright toes may touch the floor to within rounding
HEIGHTS_M = torch.tensor([0.0] + 255 * [0.01], dtype=torch.float64).cumsum(0)


def uniform(
    shape: tuple[int, ...], low: float | Tensor, high: float | Tensor, rng: torch.Generator
) -> Tensor:
    """(shape) float64 draws from [low, high)."""
    return low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=rng)


def normal(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """(shape) float64 standard normal draws."""
    return torch.randn(shape, dtype=torch.float64, generator=rng)


def uniform_rotation(n: int, rng: torch.Generator) -> Tensor:
    """(n, 4) unit quaternions wxyz, uniform over all rotations."""
    return torch.nn.functional.normalize(normal((n, 4), rng))


def limited_rotation(n: int, limit_rad: float, rng: torch.Generator) -> Tensor:
    """(n, 4) unit quaternions wxyz: any axis, the angle uniform in [0, limit_rad)."""
    axis = torch.nn.functional.normalize(normal((n, 3), rng))
    half = uniform((n, 1), 0.0, limit_rad / 2, rng)
    return torch.cat([half.cos(), half.sin() * axis], dim=1)


def azimuth_rotation(n: int, rng: torch.Generator) -> Tensor:
    """(n, 4) unit quaternions wxyz: about the vertical, by an angle uniform in [0, 2 pi)."""
    half = uniform((n,), 0.0, math.pi, rng)
    zero = torch.zeros_like(half)
    return torch.stack([half.cos(), zero, zero, half.sin()], dim=1)


def randomize_joints(sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
    """Draw the joint positions of simulations `ids`.

    Limited hinges and slides are uniform in their range, unlimited hinges in [-pi, pi]; unlimited slides
    keep their default. Unlimited ball joints take any rotation, limited ones a rotation about any axis
    by an angle uniform up to their limit. A free joint keeps its place, and its quaternion is four
    uniform numbers, normalised: that is not uniform over rotations, but it is what dm_control's
    published results start from.
    """
    model, qpos, rows = sim.model, sim.data("qpos"), ids.unsqueeze(1)
    kind, limited = torch.as_tensor(model.jnt_type), torch.as_tensor(model.jnt_limited).bool()
    address = torch.as_tensor(model.jnt_qposadr).long()
    hinge = kind == _HINGE
    drawn = hinge | ((kind == _SLIDE) & limited)
    low, high = torch.as_tensor(model.jnt_range)[drawn].T.unsqueeze(2)
    low = torch.where(limited[drawn].unsqueeze(1), low, -math.pi)
    high = torch.where(limited[drawn].unsqueeze(1), high, math.pi)
    qpos[rows, address[drawn]] = uniform((len(low), len(ids)), low, high, rng).T

    for joint in ((kind == _BALL) | (kind == _FREE)).nonzero().squeeze(1).tolist():
        start = int(address[joint])
        if int(kind[joint]) == _FREE:
            start += 3
            quaternion = torch.nn.functional.normalize(uniform((len(ids), 4), 0.0, 1.0, rng))
        elif limited[joint]:
            quaternion = limited_rotation(len(ids), float(model.jnt_range[joint, 1]), rng)
        else:
            quaternion = uniform_rotation(len(ids), rng)
        qpos[ids, start : start + 4] = quaternion


def redraw_until_free(sim: Sim, ids: Tensor, draw: Callable[[Tensor], None]) -> None:
    """Call `draw` with simulations `ids`, and again with those where something touches.

    Raises:
        RobotrlError: some still have contacts after `MAX_ROUNDS` draws.
    """
    contacts = sim.data("ncon")
    for _ in range(MAX_ROUNDS):
        draw(ids)
        sim.forward(ids)
        ids = ids[contacts[ids].cpu() > 0]
        if not len(ids):
            return
    raise RobotrlError(
        f"no initial pose without contacts in {MAX_ROUNDS} draws of {len(ids)} simulations: "
        "the joint ranges must leave room for poses in which nothing touches"
    )


def lift_off(sim: Sim, ids: Tensor) -> None:
    """Put the free root body of simulations `ids` at the lowest of `HEIGHTS_M` at which nothing touches.

    What touches at some height touches at every lower one, down to a root half inside the floor. So
    this bisects where dm_control goes up step by step, and finds the same height.

    Raises:
        RobotrlError: something touches even at the greatest height.
    """
    height, contacts = sim.data("qpos")[:, 2], sim.data("ncon")

    def touching(level: Tensor) -> Tensor:
        height[ids] = HEIGHTS_M[level]
        sim.forward(ids)
        return contacts[ids].cpu() > 0

    low, high = torch.full_like(ids, -1), torch.full_like(ids, len(HEIGHTS_M) - 1)
    if touching(high).any():
        raise RobotrlError(
            f"no initial height without contacts up to {HEIGHTS_M[-1]:.2f} m: "
            "the pose of the model file must not touch itself"
        )
    while (high - low > 1).any():
        middle = (low + high) // 2
        touches = touching(middle)
        low, high = torch.where(touches, middle, low), torch.where(touches, high, middle)
    height[ids] = HEIGHTS_M[high]
