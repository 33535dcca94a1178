"""What can be named on the command line: the YAML files of each config group, with their first line."""

from __future__ import annotations

import json
from typing import Any

from robotrl.core.paths import CONFIGS

LISTED = {
    "task": "tasks",
    "realism": "realism",
    "algorithm": "algorithms",
    "policy": "policies",
    "recipe": "recipes",
}
"""Config group -> what `robotrl list` calls it."""

GROUPS = tuple(LISTED)

SIZES = CONFIGS / "task" / "sizes.json"


def task_sizes() -> dict[str, dict[str, Any]]:
    """Return task -> `observation` and `action` sizes, `control_hz` and `episode_s` of the shipped tasks."""
    sizes: dict[str, dict[str, Any]] = json.loads(SIZES.read_text(encoding="utf-8"))
    return sizes


def available(group: str) -> dict[str, str]:
    """Return name -> description for the YAML files of a config group, sorted by name.

    The description is the file's first comment line. Nothing is imported, so this is fast.
    """
    files = sorted((CONFIGS / group).glob("*.yaml"))
    return {file.stem: _description(file.read_text(encoding="utf-8")) for file in files}


def name_of(group: str, target: str) -> str | None:
    """Return the name that stands for the class with this import path, None where none does."""
    for file in (CONFIGS / group).glob("*.yaml"):
        if f"_target_: {target}" in file.read_text(encoding="utf-8").splitlines():
            return file.stem
    return None


def _description(text: str) -> str:
    for line in text.splitlines():
        comment = line.removeprefix("#").strip()
        # Hydra wants its package directive on the first line
        if line.startswith("#") and not comment.startswith("@package"):
            return comment
    return ""
