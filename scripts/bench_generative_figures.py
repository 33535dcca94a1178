"""Figures of `bench_generative.py`: steps to a success rate, costs of a decision, summary and drawing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import interval_of_mean

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
_DECISIONS = 200


def cost_of_decision(run: Path) -> dict[str, Any]:
    """Return what one control step costs by a run's policy, evaluated as it is.

    `calls` are evaluations of a network on one row (of a policy: one per sample and denoising step; of the
    critics: one per member and candidate), divided by the control steps of a decision; `ms` is the shortest
    wall-clock time of a decision for one robot on one thread, likewise.
    """
    import torch

    from robotrl.training.restore import load_policy_and_config

    policy, _ = load_policy_and_config(run)
    by_policy, by_critics = rows_evaluated(policy)
    obs = {group: torch.zeros(1, policy.specs.obs_dim(group)) for group in policy.obs_groups}
    rng = torch.Generator().manual_seed(0)
    torch.set_num_threads(1)
    times = []
    with torch.no_grad():
        for _ in range(_DECISIONS):
            start = time.perf_counter()
            policy.act(obs, deterministic=True, rng=rng)
            times.append(time.perf_counter() - start)
    return {
        "policy_calls": by_policy / policy.horizon,
        "critic_calls": by_critics / policy.horizon,
        "ms": 1e3 * min(times) / policy.horizon,
    }


def rows_evaluated(policy: Any) -> tuple[int, int]:
    """Return evaluations of the policy's networks and of its critics for one decision."""
    from robotrl.policies.candidates import CandidatePolicy
    from robotrl.policies.edit import Edit
    from robotrl.policies.residual import ResidualPolicy
    from robotrl.policies.steered import SteeredPolicy

    if isinstance(policy, CandidatePolicy):
        samples = policy.num_samples * rows_evaluated(policy.base)[0]
        edits = policy.num_edits if isinstance(policy.edit, Edit) else 0
        return samples + edits, policy.critics.num_members * (policy.num_samples + policy.num_edits)
    if isinstance(policy, SteeredPolicy | ResidualPolicy):
        return 1 + rows_evaluated(policy.base)[0], 0
    return policy.sampling_steps or 1, 0


def summarize(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per task, method and length: mean curve with 95 % bootstrap intervals over seeds, steps to each level.

    Steps to a level are those at which the mean curve first reaches it, interpolated between evaluations;
    null where it never does.
    """
    rows = []
    for task, method, steps in dict.fromkeys((p["task"], p["method"], p["steps"]) for p in pieces):
        mine = [p for p in pieces if (p["task"], p["method"], p["steps"]) == (task, method, steps)]
        curves = np.array([[success for _, success in piece["curve"]] for piece in mine])
        at = [env_steps for env_steps, _ in mine[0]["curve"]]
        mean = curves.mean(axis=0)
        row: dict[str, Any] = {
            "task": task,
            "method": method,
            "steps": steps,
            "seeds": [piece["seed"] for piece in mine],
            "env_steps": at,
            "success": mean.tolist(),
            "interval": [interval_of_mean(point) for point in curves.T],
            "steps_to": {str(level): steps_to(level, at, mean) for level in LEVELS},
        }
        for name in ("wall_s", "policy_calls", "critic_calls", "ms"):
            row[name] = float(np.mean([piece[name] for piece in mine]))
        rows.append(row)
    return rows


def steps_to(level: float, at: list[float], mean: np.ndarray) -> float | None:
    """Return where a curve first reaches a level, None if it does not."""
    reached = np.flatnonzero(mean >= level)
    if not len(reached):
        return None
    last = int(reached[0])
    if last == 0:
        return float(at[0])
    share = (level - mean[last - 1]) / (mean[last] - mean[last - 1])
    return float(at[last - 1] + share * (at[last] - at[last - 1]))


def draw(pieces: list[dict[str, Any]], path: Path) -> None:
    """Draw the mean curves of the longest pieces with their intervals, one panel per task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = summarize(pieces)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    methods = [method for method in dict.fromkeys(row["method"] for row in rows) if method != "bc"]
    colors = {method: f"C{i}" for i, method in enumerate(methods)}
    figure, axes = plt.subplots(1, len(tasks), figsize=(5.6 * len(tasks), 3.8), squeeze=False)
    for axis, task in zip(axes.flat, tasks, strict=True):
        longest = max(row["steps"] for row in rows if row["task"] == task)
        for row in (row for row in rows if (row["task"], row["steps"]) == (task, longest)):
            label = f"{row['method']} ({len(row['seeds'])})"
            if row["method"] == "bc":
                axis.axhline(row["success"][-1], color="black", linestyle=":", label=label)
                continue
            color = colors[row["method"]]
            axis.plot(row["env_steps"], row["success"], label=label, color=color)
            low, high = np.array(row["interval"], dtype=float).T
            axis.fill_between(row["env_steps"], low, high, color=color, alpha=0.12)
        axis.set_title(task)
        axis.set_xlabel("environment steps")
        axis.set_ylabel("success, deterministic policy")
        axis.set_ylim(0, 1)
        axis.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def show(rows: list[dict[str, Any]]) -> None:
    """Print a line per task and method."""
    for row in rows:
        low, high = row["interval"][-1]
        steps = ", ".join(
            f"{level}: {'-' if found is None else f'{found:,.0f}'}"
            for level, found in row["steps_to"].items()
        )
        print(
            f"{row['task']:12s} {row['method']:14s} {len(row['seeds'])} seeds, {row['steps']:,} steps: "
            f"{row['success'][-1]:.2f} ({low:.2f} to {high:.2f}); steps to {steps}; {row['wall_s']:.0f} s; "
            f"calls {row['policy_calls']:.1f} + {row['critic_calls']:.1f}, {row['ms']:.2f} ms"
        )
