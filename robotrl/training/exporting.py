"""From a run folder to a bundle."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from robotrl.core.config import TrainConfig
from robotrl.core.errors import UsageError
from robotrl.deploy.contract import CONTRACT_FILE
from robotrl.export.bundle import export_policy
from robotrl.policies.policy import Policy
from robotrl.training.evaluation import last_evaluation
from robotrl.training.restore import load_trained
from robotrl.training.run_folder import RunFolder


def export_run(
    run: Path,
    out: Path | None = None,
    allow_simulation_only: bool = False,
    sampling_steps: int | None = None,
    formats: Iterable[str] = (),
) -> Path:
    """Export the policy of a run's newest checkpoint.

    Args:
        run: the run folder.
        out: the bundle to make; by default `bundle` inside the run, or `bundle-Ksteps` with other denoising
            steps than in the training, where an older one is replaced.
        allow_simulation_only: see `export_policy`; the run's own option allows it too.
        sampling_steps: denoising steps of a decision; None for those of the training.
        formats: see `export_policy`.

    Returns:
        The bundle's folder.

    Raises:
        UsageError: `run` is not a run, something lies at `out`, or the policy cannot take so many steps.
        RobotrlError: see `export_policy`.
    """
    folder = RunFolder(run)
    replaced = folder.bundle if sampling_steps is None else folder.path / f"bundle-{sampling_steps}steps"
    if out is None or Path(out).resolve() == replaced.resolve():
        out = replaced
    elif out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} exists: give --out a folder that does not, or an empty one")
    policy, config, log_step = load_trained(run)
    evaluated, return_mean = last_evaluation(folder)
    if sampling_steps is not None:
        policy.set_sampling_steps(sampling_steps)
    # with another number of denoising steps it is another policy, which nobody evaluated
    if evaluated != log_step or sampling_steps is not None:
        return_mean = None
    return export_policy(
        policy,
        config.task,
        out,
        provenance=provenance(config, log_step, return_mean),
        allow_simulation_only=allow_simulation_only or config.allow_simulation_only,
        formats=formats,
    )


def provenance(config: TrainConfig, env_steps: int, return_mean: float | None) -> dict[str, Any]:
    """Return what a bundle says about its training."""
    return {
        "algorithm": config.algorithm_name,
        "seed": config.seed,
        "env_steps": env_steps,
        "return_mean": return_mean,
        "task_name": config.task_name,
        "data": config.data,
        "init_from": getattr(config.algorithm, "init_from", None),
    }


def training_policy(bundle: Path) -> Policy | None:
    """Return the policy a bundle was exported from, None where it is not at hand.

    It is if the bundle lies in its run's folder and the run has not been trained further since.

    Raises:
        RobotrlError: the run's configuration or newest checkpoint is damaged.
    """
    run = bundle.resolve().parent
    if not (run / "config.yaml").is_file() or not RunFolder(run).checkpoints():
        return None
    try:
        contract = json.loads((bundle / CONTRACT_FILE).read_text(encoding="utf-8"))
        env_steps, sampling_steps = contract["training"]["env_steps"], contract.get("sampling_steps")
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the verification says what is wrong with the bundle
    policy, _, log_step = load_trained(run)
    if env_steps != log_step:
        return None
    if sampling_steps is not None:
        policy.set_sampling_steps(sampling_steps)
    return policy
