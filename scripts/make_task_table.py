"""Write docs/task_table.md: what every shipped task observes and commands, from the tasks themselves.

python scripts/make_task_table.py
"""

from __future__ import annotations

from pathlib import Path

from robotrl.compose import compose_task
from robotrl.core.catalog import available

TABLE = Path(__file__).resolve().parent.parent / "docs" / "task_table.md"


def task_table() -> str:
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
        task = compose_task(name, {})
        specs = task.specs(task.build_model())
        lines.append(
            f"| `{name}` | {description} | {specs.obs_dim('policy')} | {specs.action_dim} "
            f"| {1 / specs.control_dt_s:g} Hz | {task.episode_length_s:g} s |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(task_table(), encoding="utf-8")
