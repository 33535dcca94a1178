"""Policies of every generative kind on made-up specs, for their tests."""

from __future__ import annotations

from typing import Any

import torch

from robotrl.core.types import ActionTerm, ObsTerm, Specs
from robotrl.policies.diffusion import DiffusionConfig, DiffusionPolicy, Sampler
from robotrl.policies.flow import FlowConfig, FlowPolicy
from robotrl.policies.generative import DenoisingPolicy

SMALL = {"hidden": [16, 16], "time_dim": 4}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def specs(obs_dim: int = 3, action_dim: int = 2) -> Specs:
    return Specs(
        {"policy": (ObsTerm("x", obs_dim, "m"),)},
        tuple(ActionTerm(f"a{i}", "N", -1.0, 1.0) for i in range(action_dim)),
        0.02,
    )


def diffusion(obs_dim: int = 3, action_dim: int = 2, **options: Any) -> DiffusionPolicy:
    config = DiffusionConfig(**{**SMALL, **options})
    return DiffusionPolicy(specs(obs_dim, action_dim), config, rng())


def flow(obs_dim: int = 3, action_dim: int = 2, **options: Any) -> FlowPolicy:
    return FlowPolicy(specs(obs_dim, action_dim), FlowConfig(**{**SMALL, **options}), rng())


def of_every_kind(**options: Any) -> dict[str, DenoisingPolicy]:
    return {
        "ancestral": diffusion(**options),
        "ddim": diffusion(sampler=Sampler.DDIM, **options),
        "flow": flow(**options),
    }


KINDS = ("ancestral", "ddim", "flow")
