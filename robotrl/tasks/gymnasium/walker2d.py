"""Walker2d-v5 of Gymnasium (Erez, Tassa & Todorov 2011): a planar biped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robotrl.core.paths import ASSETS
from robotrl.tasks.gymnasium.planar import FallingRunner


@dataclass
class Walker2d(FallingRunner):
    """Walk forward without falling; 6 joint torques."""

    control_dt_s: float = 0.008
    """Time between two actions, s."""
    episode_length_s: float = 8.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "gymnasium" / "walker2d.xml"
