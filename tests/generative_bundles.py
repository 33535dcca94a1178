"""Untrained policies that decide from noise, one of every kind, and bundles of them."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from bundles import LopsidedWalker

from robotrl.algorithms.off_policy.dsrl import DSRL, DSRLConfig
from robotrl.algorithms.off_policy.expo import EXPO, EditKind, EXPOConfig
from robotrl.algorithms.off_policy.fql import FQL, FQLConfig
from robotrl.algorithms.off_policy.qc import QC, QCConfig
from robotrl.algorithms.off_policy.residual import Residual, ResidualConfig
from robotrl.core.types import Specs
from robotrl.export.bundle import export_policy
from robotrl.networks.denoiser import Network
from robotrl.networks.mlp import Norm
from robotrl.networks.time_embedding import TimeFeatures
from robotrl.policies.diffusion import DiffusionConfig, DiffusionPolicy, Sampler
from robotrl.policies.flow import FlowConfig, FlowPolicy
from robotrl.policies.gaussian import SquashedGaussianConfig, SquashedGaussianPolicy
from robotrl.policies.policy import Policy
from robotrl.policies.sampled_gaussian import SampledGaussian

# 50 control steps: an episode ends in the middle of a chunk of four
TASK = LopsidedWalker(episode_length_s=1.25)
SMALL = {"hidden": [16], "time_dim": 4, "steps": 2}
LEARNER = {"hidden": [16], "num_samples": 4}
COMPOSITES = {
    "expo": (EXPO, EXPOConfig(**LEARNER, num_critics=4, num_edits=2)),
    "jitter": (EXPO, EXPOConfig(**LEARNER, num_critics=4, num_edits=4, edit=EditKind.JITTER)),
    "qc": (QC, QCConfig(**LEARNER, critic_norm=Norm.PRE)),
    "fql": (FQL, FQLConfig(hidden=[16])),
    "dsrl": (DSRL, DSRLConfig(hidden=[16], noise_hidden=[16])),
    "residual": (Residual, ResidualConfig(hidden=[16], residual_hidden=[16])),
}
# an export takes seconds; chunks are the harder case of every kind
CASES = [
    *((kind, 4) for kind in ("flow", "ancestral", "ddim", *COMPOSITES)),
    *((kind, 1) for kind in ("flow", "expo", "sampled_gaussian")),
]


def make(kind: str, horizon: int, seed: int = 0) -> Policy:
    """A policy for `TASK` with its normaliser filled; composites stand on a flow, EXPO on a diffusion."""
    specs = TASK.specs(TASK.build_model())
    rng = torch.Generator().manual_seed(seed)
    policy = _make(kind, horizon, specs, rng)
    assert policy.normalizer is not None
    spread = torch.linspace(0.2, 3.0, policy.obs_dim)
    policy.normalizer.update(torch.randn(100, policy.obs_dim, generator=rng) * spread + spread)
    return policy.eval().requires_grad_(False)


def _make(kind: str, horizon: int, specs: Specs, rng: torch.Generator) -> Policy:
    if kind == "sampled_gaussian":
        return SampledGaussian(SquashedGaussianPolicy(specs, SquashedGaussianConfig(hidden=[16]), rng))
    if kind in ("ancestral", "ddim", "expo"):
        options = SMALL | {"horizon": horizon}
        if kind == "ddim":
            options |= {"sampler": Sampler.DDIM, "time_features": TimeFeatures.SINUSOIDAL}
        base: Policy = DiffusionPolicy(specs, DiffusionConfig(**options), rng)
    else:
        network = Network.RESNET if kind == "jitter" else Network.MLP
        base = FlowPolicy(specs, FlowConfig(**SMALL, horizon=horizon, network=network), rng)
    if kind not in COMPOSITES:
        return base
    algorithm, config = COMPOSITES[kind]
    return algorithm.make_policy(specs, base, config, rng)


def exporter(folder: Path):
    """Return the function that gives policy and bundle of a kind and horizon, made once."""

    @functools.cache
    def exported(kind: str, horizon: int) -> tuple[Policy, Path]:
        policy, out = make(kind, horizon), folder / f"{kind}{horizon}"
        return policy, export_policy(policy, TASK, out, provenance={}, allow_simulation_only=True)

    return exported
