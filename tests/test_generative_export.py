"""What a generative policy decides exports to ONNX, every denoising step of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from generative_common import diffusion, flow, rng, specs

from robotrl.networks.denoiser import Network
from robotrl.networks.mlp import Norm
from robotrl.networks.time_embedding import TimeFeatures
from robotrl.policies.diffusion import Sampler, Schedule
from robotrl.policies.one_step import OneStepConfig, OneStepPolicy


@pytest.mark.parametrize("kind", ["ancestral", "ddim", "flow", "one_step"])
def test_what_decides_exports(kind: str, tmp_path: Path) -> None:
    options = {"horizon": 2, "steps": 3}
    policies = {
        "ancestral": lambda: diffusion(schedule=Schedule.LINEAR, **options),
        "ddim": lambda: diffusion(
            sampler=Sampler.DDIM, network=Network.MLP, time_features=TimeFeatures.SINUSOIDAL, **options
        ),
        "flow": lambda: flow(norm=Norm.POST, **options),
        "one_step": lambda: OneStepPolicy(specs(), OneStepConfig(hidden=[16, 16], horizon=2), rng()),
    }
    policy = policies[kind]()
    policy.normalizer.update(torch.randn(50, 3, generator=rng(3)) * 2 + 1)
    batch = {0: torch.export.Dim("batch")}
    flat, noise = torch.randn(7, 3, generator=rng(1)), policy.draw_noise((7,), rng(2))
    with torch.no_grad():
        program = torch.onnx.export(
            policy.eval(),
            (torch.zeros(2, 3), torch.zeros(2, policy.noise_dim)),
            input_names=["obs", "noise"],
            output_names=["action"],
            dynamic_shapes=(batch, batch),
            dynamo=True,
        )
        expected = policy(flat, noise).numpy()
    program.save(tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    (action,) = session.run(["action"], {"obs": flat.numpy(), "noise": noise.numpy()})
    assert action.shape == (7, 4) and (np.abs(action) < 1).mean() > 0.3
    np.testing.assert_allclose(action, expected, atol=1e-5)
