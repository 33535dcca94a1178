"""Write docs/task_table.md and configs/task/sizes.json: what every shipped task observes and commands.

python scripts/make_task_table.py

`robotrl list tasks` reads the sizes: compiling every model would take it seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robotrl.compose import compose_task
from robotrl.core.catalog import SIZES, available

TABLE = Path(__file__).resolve().parent.parent / "docs" / "task_table.md"


def task_sizes() -> dict[str, dict[str, Any]]:
    """Return name -> sizes of every shipped task, from the tasks themselves."""
    sizes = {}
    for name in available("task"):
        task = compose_task(name, {})
        specs = task.specs(task.build_model())
        sizes[name] = {
            "observation": specs.obs_dim("policy"),
            "action": specs.action_dim,
            "control_hz": round(1 / specs.control_dt_s, 3),
            "episode_s": task.episode_length_s,
        }
    return sizes


def sizes_text(sizes: dict[str, dict[str, Any]]) -> str:
    """Return sizes.json: a line per task."""
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sizes.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def task_table(sizes: dict[str, dict[str, Any]]) -> str:
    """Return the page."""
    lines = [
        "# Shipped tasks",
        "",
        "Made by `scripts/make_task_table.py`. Observation: size of the group `policy`; action: number of "
        "actuators.",
        "",
        "| task | what it asks for | observation | action | control | episode |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, description in available("task").items():
        entry = sizes[name]
        lines.append(
            f"| `{name}` | {description} | {entry['observation']} | {entry['action']} "
            f"| {entry['control_hz']:g} Hz | {entry['episode_s']:g} s |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    found = task_sizes()
    SIZES.write_text(sizes_text(found), encoding="utf-8")
    TABLE.write_text(task_table(found), encoding="utf-8")
