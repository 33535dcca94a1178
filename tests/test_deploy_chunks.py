"""Bundles that decide from noise for several control steps, written by hand: no torch and no MuJoCo."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from test_deploy import GAIN, contract, write

from robotrl.core.errors import UsageError
from robotrl.deploy.bundle import Bundle, action_error
from robotrl.deploy.contract import METADATA_KEY, Contract
from robotrl.deploy.controller import BundleController

# step i of a chunk of three: (i + 1) GAIN obs + noise
WEIGHT = np.vstack([np.hstack([GAIN, 2 * GAIN, 3 * GAIN]), np.tile(np.eye(2, dtype=np.float32), 3)])
OBSERVATION = np.array([1.0, 2.0, 4.0, 10.0])  # GAIN obs = (-2, 31)
NOISE = np.array([0.5, -1.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    observation = rng.uniform(0.5, 1.5, (8, 4)).astype(np.float32)
    noise = rng.standard_normal((8, 2), np.float32)
    file = io.BytesIO()
    np.savez(file, observation=observation, noise=noise, action=np.hstack([observation, noise]) @ WEIGHT)
    made = contract(horizon=3, noise_dim=2, golden_sha256=hashlib.sha256(file.getvalue()).hexdigest())
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name, width in (("obs", 4), ("noise", 2))
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Concat", ["obs", "noise"], ["x"], axis=1),
            helper.make_node("MatMul", ["x", "weight"], ["action"]),
        ],
        "hand",
        inputs,
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", 6])],
        [onnx.numpy_helper.from_array(WEIGHT.astype(np.float32), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: made.to_json()})
    network = model.SerializeToString()
    made = dataclasses.replace(made, policy_sha256=hashlib.sha256(network).hexdigest())
    folder = tmp_path_factory.mktemp("hand")
    (folder / "policy.onnx").write_bytes(network)
    (folder / "golden.npz").write_bytes(file.getvalue())
    (folder / "contract.json").write_text(made.to_json())
    return folder


def test_decisions_single_and_batched(folder):
    bundle = Bundle.load(folder)
    decision = bundle(OBSERVATION, NOISE)
    assert decision.tolist() == [-1.5, 30.0, -3.5, 61.0, -5.5, 92.0]
    assert bundle(OBSERVATION[None], NOISE[None]).tolist() == [decision.tolist()]


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (None, r"decides from noise: also give \(2,\) standard normal numbers"),
        (np.zeros(3), r"noise must be \(2,\) finite numbers, got \(3,\)"),
        (np.zeros((1, 2)), r"noise must be \(2,\) finite numbers, got \(1, 2\)"),
        (np.array([0.0, np.nan]), "noise must be"),
    ],
)
def test_wrong_noise_is_refused(noise, message, folder):
    with pytest.raises(UsageError, match=message):
        Bundle.load(folder)(OBSERVATION, noise)


def test_noise_for_a_policy_without_is_refused(tmp_path):
    with pytest.raises(UsageError, match="takes no noise"):
        Bundle.load(write(tmp_path / "b", contract()))(OBSERVATION, NOISE)


def test_controller_executes_a_chunk_and_decides_anew(folder):
    controller = BundleController(Bundle.load(folder))
    other = OBSERVATION / 2
    assert controller.due
    assert controller(OBSERVATION, NOISE).tolist() == [-1.5, 30.0]
    # open loop: neither a new observation nor new noise changes what was decided
    assert not controller.due
    assert controller(other, 5 * NOISE).tolist() == [-3.5, 61.0]
    assert controller(other).tolist() == [-5.5, 92.0]
    assert controller.due
    assert controller(other, NOISE).tolist() == [-0.5, 14.5]
    controller.reset()  # a new episode: the rest of the chunk is forgotten
    assert controller.due
    assert controller(OBSERVATION, NOISE).tolist() == [-1.5, 30.0]


def test_controller_draws_noise_from_its_seed(folder):
    bundle = Bundle.load(folder)
    first, same, other = (BundleController(bundle, seed) for seed in (3, 3, 4))
    drawn = np.random.default_rng(3).standard_normal(2, dtype=np.float32)
    np.testing.assert_allclose(first(OBSERVATION), [-2 + drawn[0], 31 + drawn[1]], rtol=1e-6)
    assert same(OBSERVATION).tolist() != other(OBSERVATION).tolist()
    for controller in (first, same):
        controller.reset()
    assert first(OBSERVATION).tolist() == same(OBSERVATION).tolist()


def test_action_error_knows_the_ranges_of_every_step():
    made = contract(horizon=2)
    zero, wide = np.zeros((1, 4)), np.array([[0.0, 0.0, 0.0, 6e-4]])  # the knee's half width is 60 N m
    assert action_error(made, wide, zero) == pytest.approx(1e-5)
    assert action_error(made, np.roll(wide, 2), zero) == pytest.approx(1e-5)
    assert action_error(made, np.roll(wide, 1), zero) == pytest.approx(6e-4 / 8)  # the hip's is 8


def test_a_bundle_of_the_first_schema_still_runs(tmp_path):
    folder = write(tmp_path / "b", contract())

    def first(text: str) -> str:
        old = json.loads(text) | {"schema": "robotrl.bundle/1"}
        for name in ("horizon", "noise_dim", "sampling_steps", "robot", "files"):
            del old[name]
        for term in old["inputs"]:
            del term["of"], term["age_steps"]
        return json.dumps(old)

    model = onnx.load(folder / "policy.onnx")
    inside = model.metadata_props[0].value
    del model.metadata_props[:]
    helper.set_model_props(model, {METADATA_KEY: first(inside)})
    onnx.save(model, folder / "policy.onnx")
    sha = hashlib.sha256((folder / "policy.onnx").read_bytes()).hexdigest()
    text = json.dumps(json.loads(first(inside)) | {"policy_sha256": sha})
    (folder / "contract.json").write_text(text)
    bundle = Bundle.load(folder)
    assert (
        bundle.contract
        == Contract.from_json(text, "x")
        == dataclasses.replace(contract(), golden_sha256=bundle.contract.golden_sha256, policy_sha256=sha)
    )
    assert BundleController(bundle)(OBSERVATION).tolist() == [-2.0, 31.0]


def test_a_robot_needs_neither_torch_nor_mujoco(folder):
    script = (
        "import sys, numpy as np; from robotrl.deploy.bundle import Bundle; "
        "from robotrl.deploy.controller import BundleController; "
        f"print(BundleController(Bundle.load({str(folder)!r}))(np.ones(4)).shape); "
        "print([m for m in ('torch', 'mujoco', 'onnx', 'gymnasium', 'omegaconf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(2,)", "[]"]
