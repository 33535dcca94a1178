"""Turns the lines of bench_learn.jsonl into figures: means, intervals, ratios, curves."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import interval_of_mean, write_json

_RESAMPLES = 2_000
_COLORS = {"ours": "#1668b8", "sb3": "#c2571a", "sb3_wide": "#8a6d1c"}
_STEPS, _SECONDS, _RETURN = 0, 1, 2


def summarize(results: list[dict[str, Any]], stem: Path, made_by: dict[str, Any]) -> None:
    """Write `stem`.json and `stem`.png, and print the table."""
    groups: dict[tuple[Any, ...], dict[str, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    settings: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(dict)
    for result in results:
        if "curve" not in result:
            continue
        job = result["job"]
        key = tuple(job[name] for name in ("mode", "algorithm", "task", "base_steps", "all_cpus"))
        # lines come in order of time: another setting starts a contender's curves over
        if settings[key].get(job["contender"]) != job["settings"]:
            groups[key][job["contender"]] = {}
            settings[key][job["contender"]] = job["settings"]
        groups[key][job["contender"]][job["seed"]] = np.array(result["curve"])
    comparisons = []
    for key, by_seed in sorted(groups.items()):
        curves = {name: np.stack(list(found.values())) for name, found in by_seed.items()}
        names = ("mode", "algorithm", "task", "base_steps", "all_cpus")
        entry = dict(zip(names, key, strict=True)) | {"contenders": {}}
        for name, stacked in curves.items():
            entry["contenders"][name] = _describe(stacked, sorted(by_seed[name]), settings[key][name])
        peers = [name for name in curves if name != "ours"]
        if "ours" in curves and peers:
            # SB3's best is the setting with the highest final return
            peer = max(peers, key=lambda name: curves[name][:, -1, _RETURN].mean())
            entry["compared_with"] = peer
            entry |= _compare(curves["ours"], curves[peer])
        comparisons.append(entry)
        print(_line(entry))
    commits = sorted({str(result["provenance"].get("git_commit")) for result in results})
    notes = (
        "Wall clock excludes evaluation and construction on both sides. Intervals are 95 % percentile "
        "bootstrap over seeds. SB3 trains on Gymnasium's and dm_control's own environments; our training "
        "environments start at random ages of their first episode, SB3's all at its beginning."
    )
    document = {
        "provenance": made_by,
        "commits": commits,
        "notes": notes,
        "comparisons": comparisons,
    }
    write_json(stem.with_suffix(".json"), document)
    if groups:
        _draw(groups, stem.with_suffix(".png"))
    print(f"written to {stem.with_suffix('.json')}")


def _describe(curves: np.ndarray, seeds: list[int], settings: dict[str, Any]) -> dict[str, Any]:
    final = curves[:, -1, _RETURN]
    return {
        "settings": settings,
        "seeds": seeds,
        "final_returns": final.tolist(),
        "final_return": float(final.mean()),
        "final_return_interval": interval_of_mean(final),
        "env_steps": float(curves[:, -1, _STEPS].mean()),
        "train_s": float(curves[:, -1, _SECONDS].mean()),
        "env_steps_per_s": float((curves[:, -1, _STEPS] / curves[:, -1, _SECONDS]).mean()),
        "curve": {
            "env_steps": curves[:, :, _STEPS].mean(0).tolist(),
            "train_s": curves[:, :, _SECONDS].mean(0).tolist(),
            "return": curves[:, :, _RETURN].mean(0).tolist(),
        },
    }


def _compare(ours: np.ndarray, peer: np.ndarray) -> dict[str, Any]:
    """Ours minus the peer at the end of the steps both took; and the ratio of the times to the peer's end."""
    rng = np.random.default_rng(0)
    differences, ratios = [], []
    for _ in range(_RESAMPLES):
        ours_drawn = ours[rng.integers(len(ours), size=len(ours))]
        peer_drawn = peer[rng.integers(len(peer), size=len(peer))]
        differences.append(_return_difference(ours_drawn, peer_drawn))
        ratios.append(_time_ratio(ours_drawn, peer_drawn))
    target = float(peer[:, -1, _RETURN].mean())
    low, high = np.percentile(ratios, [2.5, 97.5]) if len(ours) > 1 and len(peer) > 1 else (np.nan, np.nan)
    several = len(ours) > 1 and len(peer) > 1
    spread = np.percentile(differences, [2.5, 97.5]).tolist() if several else [float("nan")] * 2
    return {
        "return_difference_at_equal_steps": _return_difference(ours, peer),
        "return_difference_interval": spread,
        "target_return": target,
        "ours_s_to_target": _seconds_to(ours, target),
        "peer_s_to_target": _seconds_to(peer, target),
        "speedup_to_target": _time_ratio(ours, peer),
        "speedup_interval": [float(low), float(high)],
    }


def _return_difference(ours: np.ndarray, peer: np.ndarray) -> float:
    steps = min(ours[:, -1, _STEPS].mean(), peer[:, -1, _STEPS].mean())
    ends = [
        np.interp(steps, curves[:, :, _STEPS].mean(0), curves[:, :, _RETURN].mean(0))
        for curves in (ours, peer)
    ]
    return float(ends[0] - ends[1])


def _time_ratio(ours: np.ndarray, peer: np.ndarray) -> float:
    """Peer's time over ours until the mean curve reaches the peer's final mean; 0 if ours never does."""
    target = float(peer[:, -1, _RETURN].mean())
    ours_s, peer_s = _seconds_to(ours, target), _seconds_to(peer, target)
    return 0.0 if ours_s is None or peer_s is None else peer_s / max(ours_s, 1e-9)


def _seconds_to(curves: np.ndarray, target: float) -> float | None:
    """When the mean curve first reaches the target, on straight lines between evaluations."""
    seconds, returns = curves[:, :, _SECONDS].mean(0), curves[:, :, _RETURN].mean(0)
    reached = np.flatnonzero(returns >= target - 1e-9 * abs(target))
    if not len(reached):
        return None
    i = int(reached[0])
    if i == 0:
        return float(seconds[0])
    share = (target - returns[i - 1]) / (returns[i] - returns[i - 1])
    return float(seconds[i - 1] + min(1.0, share) * (seconds[i] - seconds[i - 1]))


def _line(entry: dict[str, Any]) -> str:
    head = f"{entry['mode']} {entry['algorithm']} {entry['task']} {entry['base_steps']:,} steps"
    head += " (whole machine)" if entry["all_cpus"] else " (one core each)"
    parts = [head]
    for name, found in entry["contenders"].items():
        low, high = found["final_return_interval"]
        parts.append(
            f"  {name:10s} {found['final_return']:9.1f} ({low:.1f} to {high:.1f}), "
            f"{len(found['seeds'])} seeds, {found['train_s']:.0f} s, {found['env_steps_per_s']:.0f} steps/s"
        )
    if "compared_with" in entry:
        low, high = entry["return_difference_interval"]
        parts.append(
            f"  at equal steps, ours - {entry['compared_with']}: "
            f"{entry['return_difference_at_equal_steps']:+.1f} ({low:+.1f} to {high:+.1f})"
        )
        low, high = entry["speedup_interval"]
        parts.append(
            f"  wall clock to {entry['target_return']:.1f}: {entry['speedup_to_target']:.2f} times shorter "
            f"({low:.2f} to {high:.2f}; 0 = not reached)"
        )
    return "\n".join(parts)


def _draw(groups: dict[tuple[Any, ...], dict[str, dict[int, Any]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6 * columns, 3.6 * rows), squeeze=False)
    for axis, (key, by_seed) in zip(axes.flat, sorted(groups.items()), strict=False):
        mode, algorithm, task, _, all_cpus = key
        column = _STEPS if mode == "identical" else _SECONDS
        for name, found in by_seed.items():
            curves = np.stack(list(found.values()))
            x, returns = curves[:, :, column].mean(0), curves[:, :, _RETURN]
            color = _COLORS.get(name, "grey")
            axis.plot(x, returns.mean(0), color=color, label=f"{name} ({len(curves)} seeds)")
            if len(curves) > 1:
                bounds = np.array([interval_of_mean(values) for values in returns.T])
                axis.fill_between(x, bounds[:, 0], bounds[:, 1], color=color, alpha=0.18, linewidth=0)
        machine = "whole machine" if all_cpus else "one core each"
        axis.set_title(f"{algorithm.upper()} on {task}, {mode} settings, {machine}", fontsize=10)
        axis.set_xlabel("environment steps" if column == _STEPS else "training wall clock, s")
        axis.set_ylabel("return")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
