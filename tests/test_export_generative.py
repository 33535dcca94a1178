"""Policies that decide from noise and in chunks: what leaves is what was trained, and runs in its order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from bundles import CHECKS, failed
from generative_bundles import CASES, TASK, make
from test_verify import forge

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.bundle import Bundle
from robotrl.export.noise import SettledNoise
from robotrl.export.verify import verify_bundle
from robotrl.policies.gaussian import GaussianPolicy
from robotrl.policies.latent import LatentPolicy


@pytest.mark.parametrize(("kind", "horizon"), CASES)
def test_bundle_does_what_the_policy_does(kind, horizon, generative):
    policy, path = generative(kind, horizon)
    contract = json.loads((path / "contract.json").read_text())
    assert (contract["horizon"], contract["noise_dim"]) == (horizon, policy.noise_dim)
    assert contract["sampling_steps"] == (None if kind in ("fql", "sampled_gaussian") else 2)
    # bare onnxruntime against the policy and the actuators' limits, chunk step by chunk step
    session = onnxruntime.InferenceSession(path / "policy.onnx")
    rng = torch.Generator().manual_seed(1)
    settled = SettledNoise(policy, rng)
    low, high = policy.specs.action_low, policy.specs.action_high
    for batch in (1, 2, 200):
        flat = torch.randn(batch, policy.obs_dim, generator=rng) * 3
        noise = settled.draw(flat)
        expected = low + (policy(flat, noise).view(batch, horizon, -1) + 1) / 2 * (high - low)
        feeds = {"obs": flat.numpy()} | ({} if noise is None else {"noise": noise.numpy()})
        (action,) = session.run(["action"], feeds)
        assert action.shape == (batch, horizon * 6)
        assert np.abs(action - expected.flatten(1).numpy()).max() <= 1e-5
        assert batch < 200 or action.std(axis=0).min() > 0.02  # not a constant
    checks = verify_bundle(path, policy)
    assert failed(checks) == []
    assert "200 of 200" in checks[CHECKS.index("replay")].detail
    assert "50 control steps, max abs error" in checks[-1].detail


def test_another_policy_is_told_apart(generative):
    path = generative("qc", 4)[1]
    assert failed(verify_bundle(path)) == []
    assert failed(verify_bundle(path, make("qc", 4, seed=1))) == ["closed loop"]
    with pytest.raises(UsageError, match=r"'horizon': 4.* the policy's are {'horizon': 1,"):
        verify_bundle(path, make("qc", 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_dim": 95}, r"input is obs .*needs to be obs \['batch', 24\], noise \['batch', 95\] float"),
        ({"noise_dim": 0}, r"input is obs .*needs to be obs \['batch', 24\] float"),
        ({"horizon": 2}, r"output is action .*needs to be action \['batch', 12\] float"),
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"noise_dim": -1}, "noise_dim must be at least 0, got -1"),
        ({"sampling_steps": 0}, "sampling_steps must be at least 1, got 0"),
    ],
)
def test_forged_width_is_refused(changes, message, generative, tmp_path):
    bundle = Path(shutil.copytree(generative("qc", 4)[1], tmp_path / "b"))
    contract = json.loads((bundle / "contract.json").read_text())
    for tamper in ("contract.json only", "everything"):
        if tamper == "everything":
            forge(bundle, **(contract | changes))
        else:
            (bundle / "contract.json").write_text(json.dumps(contract | changes))
            told = "they disagree about " + next(iter(changes))
        for read in (verify_bundle, Bundle.load):
            with pytest.raises(RobotrlError) as caught:
                read(bundle)
            assert "\n" not in str(caught.value)
            if tamper == "everything" or "least" in message:
                assert caught.match(message)
            else:
                assert told in str(caught.value)


def test_recorded_noise_belongs_to_the_decisions(generative, tmp_path):
    bundle = Path(shutil.copytree(generative("flow", 4)[1], tmp_path / "b"))
    golden = dict(np.load(bundle / "golden.npz"))
    forge(bundle, {"loop_noise": golden["loop_noise"][::-1]})
    assert failed(verify_bundle(bundle)) == ["recorded actions"]
    for change, message in (
        ({"noise": golden["noise"][:-1]}, "recordings of unequal length"),
        ({"noise": golden["noise"][:, :-1]}, r"noise is float32 \(272, 23\)"),
        ({"noise": golden["noise"] * np.nan}, "noise holds values that are not finite"),
        ({"action": golden["action"][:, :6]}, r"action is float32 \(272, 6\), needs .* \(24,\)"),
    ):
        forge(bundle, golden | change)
        with pytest.raises(RobotrlError, match=message):
            Bundle.load(bundle)


def test_noise_is_drawn_again_where_two_candidates_are_worth_the_same():
    """A policy that jumps at z = 0 by the sign of w z + 1e-7: only noise away from the jump is settled."""

    class Jump(torch.nn.Module):
        noise_dim = 1

        def __init__(self):
            super().__init__()
            self.weights = torch.nn.Parameter(torch.ones(2))
            self.offered = [torch.zeros(3, 1), torch.tensor([[0.0], [0.3], [0.0]])]

        def draw_noise(self, batch_shape, rng):
            return self.offered.pop(0) if self.offered else torch.full((*batch_shape, 1), -0.5)

        def forward(self, flat, noise):
            better, worse = self.weights[0] * (1.0 + noise), self.weights[1] * 1.0
            return torch.where(better > worse, 0.5, -0.5)

    noise = SettledNoise(Jump(), torch.Generator().manual_seed(0)).draw(torch.zeros(3, 1))
    assert noise.squeeze(1).tolist() == pytest.approx([-0.5, 0.3, -0.5])


def test_composites_take_the_steps_that_are_in_them():
    specs = TASK.specs(TASK.build_model())
    encoder = GaussianPolicy(specs, GaussianPolicy.config_class(hidden=[8]), torch.Generator().manual_seed(0))
    latent, decoder = LatentPolicy(encoder, make("flow", 1)), make("flow", 1)
    for policy in (latent, make("fql", 1)):  # the decoder is not in use yet, the flow never decides
        assert policy.sampling_steps is None
        with pytest.raises(UsageError, match="has no denoising steps"):
            policy.set_sampling_steps(5)
    latent.adopt(decoder)
    flat = torch.randn(3, latent.obs_dim, generator=torch.Generator().manual_seed(1))
    for policy in (latent, make("qc", 4), make("residual", 4), make("dsrl", 4)):
        noise = policy.draw_noise((3,), torch.Generator().manual_seed(2))
        before = policy(flat, noise)
        policy.set_sampling_steps(5)
        assert policy.sampling_steps == 5 and not torch.equal(policy(flat, noise), before)
