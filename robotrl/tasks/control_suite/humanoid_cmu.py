"""Humanoid with the joints of the CMU motion capture data, of the DeepMind Control Suite.

Tassa et al. 2018, arXiv:1801.00690; tasks stand, walk and run. The observations and rewards are those
of `Humanoid`; its trunk is the thorax, whose y axis points to the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robotrl.core.paths import ASSETS
from robotrl.tasks.control_suite.humanoid import Humanoid


@dataclass
class HumanoidCMU(Humanoid):
    """Get up, stand upright and, with a speed to reach, move at it, with 56 joints."""

    control_dt_s: float = 0.02
    """Time between two actions, s."""
    episode_length_s: float = 20.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "humanoid_CMU.xml"

    trunk = "thorax"
    limbs = ("lhand", "lfoot", "rhand", "rfoot")
    upright_entry = 7
