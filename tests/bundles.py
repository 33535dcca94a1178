"""Untrained policies of every kind, and bundles of them, for the tests of export and verification."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import torch

from robotrl.core.types import ObsTerm, Source
from robotrl.export.bundle import export_policy
from robotrl.policies.deterministic import DeterministicPolicy
from robotrl.policies.gaussian import BetaPolicy, GaussianPolicy, SquashedGaussianPolicy
from robotrl.policies.policy import Policy
from robotrl.tasks.control_suite.walker import Walker
from robotrl.tasks.task import Task

KINDS: dict[str, type[Policy]] = {
    "gaussian": GaussianPolicy,
    "squashed": SquashedGaussianPolicy,
    "beta": BetaPolicy,
    "deterministic": DeterministicPolicy,
}
CHECKS = ["parts", "task", "golden vectors", "recorded actions", "replay", "closed loop"]
TASK = Walker(episode_length_s=6.0)  # 240 control steps


@dataclasses.dataclass
class LopsidedWalker(Walker):
    """A walker whose actuators have ranges of their own and whose height no robot measures."""

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        for i, actuator in enumerate(spec.actuators):
            actuator.ctrlrange = [-0.1 - 0.2 * i, 0.7 + 0.3 * i]

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        terms = super().observation_terms(model)["policy"]
        return {
            "policy": tuple(
                dataclasses.replace(term, source=Source.SIMULATION) if term.name == "height" else term
                for term in terms
            )
        }


def make_policy(kind: type[Policy], task: Task, seed: int = 0) -> Policy:
    """An untrained policy whose actions spread over the whole range, normaliser included."""
    specs = task.specs(task.build_model())
    options: dict[str, Any] = {"hidden": [24, 16]}
    if kind is GaussianPolicy:
        options["mean_gain"] = 0.4
    rng = torch.Generator().manual_seed(seed)
    policy = kind(specs, kind.config_class(**options), rng)
    if isinstance(policy, BetaPolicy):
        policy.net.split(policy.net.flat.data)[-2].mul_(100)  # it starts near the middle
    spread = torch.linspace(0.2, 3.0, policy.obs_dim)
    policy.normalizer.update(torch.randn(100, policy.obs_dim, generator=rng) * spread + spread)
    return policy


def exporter(folder: Path) -> Callable[[str], tuple[Policy, Path]]:
    """Return the function that gives policy and bundle of a kind, made once."""

    @functools.cache
    def exported(kind: str) -> tuple[Policy, Path]:
        policy = make_policy(KINDS[kind], TASK)
        return policy, export_policy(policy, TASK, folder / kind, provenance={"seed": 0})

    return exported


def failed(checks: list[Any]) -> list[str]:
    assert [check.name for check in checks] == CHECKS
    return [check.name for check in checks if not check.passed]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
