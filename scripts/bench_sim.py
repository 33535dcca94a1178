"""Environment steps per second: robotrl against bare physics, EnvPool, Gymnasium, SB3 and dm_control.

    python scripts/bench_sim.py [--quick] [--tasks ...] [--envs ...] [--repeats 7] [--fresh]

Every contender lives in a process of its own and they run in turns, one sample each per repeat, so that
a machine that drifts drifts for all of them. A sample is about --sample-s seconds of full control
steps (physics, observation, reward, termination, auto-reset check, float32 policy input) with the same
pre-drawn random actions; processes are not pinned, and everyone may use all CPUs. Samples lie inside
episodes; what the automatic reset at an episode's end adds is measured apart and spread over episodes
of 1000 steps ("amortised"). A reset of cheetah_run simulates 200 settling steps, for the peers too.

"bare" is `mujoco.batch.Batch.step` of the same model and substeps, the better of persistent and not:
the limit. "bare fresh" also makes the derived fields current that the task reads.

EnvPool runs in its own virtual environment, .bench-venv:
    python3.11 -m venv .bench-venv && .bench-venv/bin/pip install envpool==1.2.5

Writes benchmarks/results/bench_sim.json after every cell; cells of the same settings, commit and machine
are not measured again unless --fresh.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_common import RESULTS, ROOT, provenance, write_json
from rich.console import Console
from rich.table import Table

BENCH_PYTHON = ROOT / ".bench-venv" / "bin" / "python"
EPISODE_STEPS = 1000
BARE = ["bare", "bare_persistent"]
BARE_FRESH = ["bare_fresh", "bare_fresh_persistent"]
CONTENDERS = {
    "HalfCheetah-v5": [
        "ours", *BARE, *BARE_FRESH, "envpool", "gymnasium_sync", "gymnasium_async", "sb3_subproc",
    ],
    "cheetah_run": ["ours", *BARE, *BARE_FRESH, "envpool", "dm_control"],
}  # fmt: skip
# a process (or a compiled model) per environment: more would thrash the memory of a small machine
CAPPED = ("gymnasium_async", "sb3_subproc", "dm_control")


class Worker:
    """A contender's process."""

    def __init__(
        self, contender: str, task: str, num_envs: int, episode_steps: int, timeout_s: float
    ) -> None:
        python = BENCH_PYTHON if contender == "envpool" else Path(sys.executable)
        if not python.exists():
            raise RuntimeError(f"{python} does not exist: see the head of this script")
        script = str(Path(__file__).with_name("bench_sim_worker.py"))
        self.timeout_s = timeout_s
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  lives as long as the process
        self.process = subprocess.Popen(
            [str(python), script, contender, task, str(num_envs), str(episode_steps)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            start_new_session=True,
        )
        try:
            self.note = self._answer()["note"]
        except BaseException:
            self.close()
            raise

    def ask(self, command: str, count: int) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command} {count}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        output = self.process.stdout
        assert output is not None
        if not select.select([output], [], [], self.timeout_s)[0]:
            raise RuntimeError(f"no answer within {self.timeout_s:g} s")
        line = output.readline()
        if not line:
            self.errors.seek(0)
            lines = self.errors.read().strip().splitlines()
            raise RuntimeError(lines[-1] if lines else "the process died")
        return json.loads(line)

    def close(self) -> None:
        """End the process and those it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.errors.close()


def measure_cell(task: str, num_envs: int, contenders: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Measure all contenders of a task in turns at one number of environments."""
    cell: dict[str, Any] = {"task": task, "num_envs": num_envs, "contenders": {}}
    workers: dict[str, Worker] = {}
    counts: dict[str, int] = {}
    try:
        for name in contenders:
            envs = min(num_envs, args.max_processes) if name in CAPPED else num_envs
            entry = cell["contenders"][name] = {"num_envs": envs, "steps_per_s": []}
            try:
                worker = Worker(name, task, envs, EPISODE_STEPS, args.timeout_s)
                workers[name] = worker
                entry["note"] = worker.note
                if envs < num_envs:
                    entry["note"] += f" measured with {envs} environments: one process or model each"
                # warm up, and find out how many calls fill a sample
                first = worker.ask("steps", 3)
                guess = max(1, round(0.3 * args.sample_s * 3 / first["seconds"]))
                again = worker.ask("steps", guess)
                counts[name] = max(1, round(args.sample_s * again["calls"] / again["seconds"]))
            except (RuntimeError, OSError) as error:
                _fail(entry, workers, name, error)
        for _ in range(args.repeats):
            for name in list(workers):
                entry = cell["contenders"][name]
                try:
                    sample = workers[name].ask("steps", counts[name])
                except (RuntimeError, OSError) as error:
                    _fail(entry, workers, name, error)
                    continue
                entry["steps_per_s"].append(entry["num_envs"] * sample["calls"] / sample["seconds"])
    finally:
        for worker in workers.values():
            worker.close()
    for name, entry in cell["contenders"].items():
        if not entry["steps_per_s"]:
            continue
        entry["median_steps_per_s"] = statistics.median(entry["steps_per_s"])
        if args.boundaries and not name.startswith("bare"):
            _add_boundary(name, task, entry, args)
    return cell


def _fail(entry: dict[str, Any], workers: dict[str, Worker], name: str, error: Exception) -> None:
    entry["error"] = str(error)
    if name in workers:
        workers.pop(name).close()


def _add_boundary(name: str, task: str, entry: dict[str, Any], args: argparse.Namespace) -> None:
    """Measure the automatic reset in short episodes and spread it over long ones."""
    worker = None
    try:
        worker = Worker(name, task, entry["num_envs"], 10, args.timeout_s)
        worker.ask("boundary", 1)
        reset_s = worker.ask("boundary", 3 if args.quick else 5)["reset_s"]
    except (RuntimeError, OSError) as error:
        entry["boundary_error"] = str(error)
        return
    finally:
        if worker is not None:
            worker.close()
    call_s = entry["num_envs"] / entry["median_steps_per_s"]
    entry["reset_all_s"] = reset_s
    entry["amortised_steps_per_s"] = entry["num_envs"] * EPISODE_STEPS / (EPISODE_STEPS * call_s + reset_s)


def summarize(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per contender: rates, and ours over theirs as the median of the repeats' ratios."""
    entries = cell["contenders"]
    ours = entries["ours"]
    rows = []
    for label, names in {"bare (limit)": BARE, "bare fresh": BARE_FRESH}.items():
        measured = [name for name in names if entries.get(name, {}).get("steps_per_s")]
        if measured:
            best = max(measured, key=lambda name: entries[name]["median_steps_per_s"])
            rows.append(_row(f"{label}: {best}", entries[best], ours))
    for name, entry in entries.items():
        if name.startswith("bare"):
            continue
        if entry["steps_per_s"]:
            rows.append(_row(name, entry, ours))
        else:
            rows.append({"contender": name, "error": entry.get("error", "")})
    return rows


def _row(label: str, entry: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(ours["steps_per_s"], entry["steps_per_s"], strict=False)
    ratios = [mine / theirs for mine, theirs in pairs]
    row = {
        "contender": label,
        "num_envs": entry["num_envs"],
        "steps_per_s": entry["median_steps_per_s"],
        "ours_over_theirs": statistics.median(ratios) if ratios else None,
        "ratio_range": [min(ratios), max(ratios)] if ratios else None,
    }
    if "amortised_steps_per_s" in entry:
        row["amortised_steps_per_s"] = entry["amortised_steps_per_s"]
        if "amortised_steps_per_s" in ours:
            row["amortised_ratio"] = ours["amortised_steps_per_s"] / entry["amortised_steps_per_s"]
    return row


def show(console: Console, cell: dict[str, Any]) -> None:
    """Print a cell as a table."""
    table = Table(title=f"{cell['task']}, {cell['num_envs']} environments", title_justify="left")
    for column in ("contender", "envs", "steps/s", "ours / theirs", "range", "amortised/s", "ours / theirs"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for row in summarize(cell):
        if "error" in row:
            table.add_row(row["contender"], "", "failed", row["error"])
            continue
        low_high = row["ratio_range"]
        table.add_row(
            row["contender"],
            str(row["num_envs"]),
            f"{row['steps_per_s']:,.0f}",
            _number(row["ours_over_theirs"]),
            f"{low_high[0]:.2f} to {low_high[1]:.2f}" if low_high else "",
            f"{row['amortised_steps_per_s']:,.0f}" if "amortised_steps_per_s" in row else "",
            _number(row.get("amortised_ratio")),
        )
    console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def main() -> None:
    """Measure what is asked for and is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--envs", nargs="+", type=int, default=[1, 16, 256, 1024])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sample-s", type=float, default=1.0, help="length of a sample, s")
    parser.add_argument("--max-processes", type=int, default=16, help="environments of process-based peers")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="wait for a contender's answer, s")
    parser.add_argument("--quick", action="store_true", help="short samples, 3 repeats: only a smoke test")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/bench_sim.json")
    args = parser.parse_args()
    if args.quick:
        args.sample_s, args.repeats = 0.1, 3
    # a smoke test must not replace measurements
    folder = Path(tempfile.gettempdir()) if args.quick else RESULTS
    args.boundaries = True
    args.out = args.out or folder / "bench_sim.json"
    console = Console(width=120)
    made_by = provenance()
    settings = {
        key: getattr(args, key) for key in ("repeats", "sample_s", "max_processes")
    } | {key: made_by.get(key) for key in ("git_commit", "machine", "cpus")}  # fmt: skip
    document: dict[str, Any] = {"provenance": made_by, "cells": []}
    if args.out.is_file() and not args.fresh:
        document["cells"] = json.loads(args.out.read_text())["cells"]
    for task in args.tasks:
        for num_envs in args.envs:
            same = [c for c in document["cells"] if (c["task"], c["num_envs"]) == (task, num_envs)]
            if same and same[0]["settings"] == settings:
                show(console, same[0])
                continue
            cell = measure_cell(task, num_envs, CONTENDERS[task], args) | {"settings": settings}
            cell["summary"] = summarize(cell)
            document["cells"] = [c for c in document["cells"] if c not in same] + [cell]
            write_json(args.out, document)
            show(console, cell)
    console.print(f"written to {args.out}")


if __name__ == "__main__":
    main()
