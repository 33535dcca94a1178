"""The bundle reader, on a bundle written by hand: no torch and no MuJoCo are involved."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.bundle import Bundle, action_error
from robotrl.deploy.contract import METADATA_KEY, SCHEMA, Contract, InputTerm, OutputTerm

# gains of a hand-written policy: tau = K (angle, rate_a, rate_b, height)
GAIN = np.array([[1.0, 0.0], [-2.0, 0.5], [0.25, 0.0], [0.0, 3.0]], dtype=np.float32)


def contract(**changes: object) -> Contract:
    def term(name: str, unit: str, start: int, elements: tuple[str, ...] = ()) -> InputTerm:
        size = max(1, len(elements))
        return InputTerm("policy", name, unit, (size,), None, None, elements, "sensor", 1.0, start, name, 0)

    made = Contract(
        schema=SCHEMA,
        created="2026-11-21T00:00:00+00:00",
        robotrl_version="0.1.0",
        git_commit=None,
        mujoco_version="4.0.0",
        task={"name": "hand", "_target_": "nowhere.Hand", "options": {}},
        model_sha256="0" * 64,
        control_hz=50.0,
        control_dt_s=0.02,
        physics_dt_s=0.002,
        inputs=(term("angle", "rad", 0), term("rate", "rad/s", 1, ("a", "b")), term("height", "m", 3)),
        outputs=(
            OutputTerm("hip", "N m", -8.0, 8.0, 8.0, 0.0),
            OutputTerm("knee", "N m", -20.0, 100.0, 60.0, 40.0),
        ),
        horizon=1,
        noise_dim=0,
        sampling_steps=None,
        atol=1e-5,
        golden_sha256="",
        policy_sha256=None,
        files={},
        robot=None,
        training={},
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def write(folder: Path, made: Contract, op: str | None = None, golden_shift: float = 0.0) -> Path:
    """Write a bundle whose network is obs @ GAIN, followed by `op`."""
    rng = np.random.default_rng(0)
    observation = rng.uniform(0.5, 1.5, (32, 4)).astype(np.float32)
    action = observation @ np.abs(GAIN) if op else observation @ GAIN
    if op == "Log":
        action = np.log(action)
    file = io.BytesIO()
    np.savez(file, observation=observation, action=action + np.float32(golden_shift))
    made = dataclasses.replace(made, golden_sha256=hashlib.sha256(file.getvalue()).hexdigest())
    nodes = [helper.make_node("MatMul", ["obs", "gain"], ["x" if op else "action"])]
    if op:
        nodes.append(helper.make_node(op, ["x"], ["action"]))
    graph = helper.make_graph(
        nodes,
        "hand",
        [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(np.abs(GAIN) if op else GAIN, "gain")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: made.to_json()})
    network = model.SerializeToString()
    made = dataclasses.replace(made, policy_sha256=hashlib.sha256(network).hexdigest())
    folder.mkdir()
    (folder / "policy.onnx").write_bytes(network)
    (folder / "golden.npz").write_bytes(file.getvalue())
    (folder / "contract.json").write_text(made.to_json())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle", contract())


def test_actions_single_and_batched(folder: Path) -> None:
    bundle = Bundle.load(folder)
    np.testing.assert_allclose(bundle(np.array([1.0, 2.0, 4.0, 10.0])), [-2.0, 31.0])
    batch = np.arange(12.0).reshape(3, 4)
    actions = bundle(batch)
    assert actions.shape == (3, 2) and actions.dtype == np.float32
    np.testing.assert_array_equal(actions, np.stack([bundle(row) for row in batch]))


def test_observation_is_built_by_name_in_any_order(folder: Path) -> None:
    bundle = Bundle.load(folder)
    terms = {"height": 10.0, "rate": [2.0, 4.0], "angle": np.array([1.0])}
    expected = np.array([1.0, 2.0, 4.0, 10.0], dtype=np.float32)
    for order in (["height", "rate", "angle"], ["rate", "angle", "height"], ["angle", "height", "rate"]):
        flat = bundle.observation({name: terms[name] for name in order})
        assert flat.dtype == np.float32
        np.testing.assert_array_equal(flat, expected)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"angle": 1.0, "height": 1.0}, "'rate' .* is missing"),
        ({"angle": 1.0, "rate": [1.0, 2.0], "hight": 1.0}, "unknown observation term 'hight'.*'height'"),
        ({"angle": 1.0, "rate": [1.0], "height": 1.0}, r"'rate' must have shape \(2,\), got \(1,\)"),
        ({"angle": 1.0, "rate": 1.0, "height": 1.0}, r"'rate' must have shape \(2,\), got \(\)"),
    ],
)
def test_wrong_terms_are_refused(folder: Path, terms: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Bundle.load(folder).observation(terms)


def test_terms_that_share_a_name_are_told_apart_by_group(tmp_path: Path) -> None:
    made = contract()
    first, *rest, last = made.inputs
    last = dataclasses.replace(last, group="foot", name="angle", of="angle")
    bundle = Bundle.load(write(tmp_path / "b", dataclasses.replace(made, inputs=(first, *rest, last))))
    flat = bundle.observation({"foot/angle": 4.0, "policy/angle": 1.0, "rate": [2.0, 3.0]})
    np.testing.assert_array_equal(flat, [1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize(
    ("column", "label"), [(0, r"'angle' \(0\)"), (2, r"'rate' \(b\)"), (3, r"'height' \(0\)")]
)
def test_observation_that_is_not_finite_is_refused(folder: Path, bad: float, column: int, label: str) -> None:
    observation = np.ones((2, 4))
    observation[1, column] = bad
    with pytest.raises(UsageError, match=f"observation {label} is not finite"):
        Bundle.load(folder)(observation)


@pytest.mark.parametrize("shape", [(3,), (5,), (1, 3), (1, 1, 4), ()])
def test_observation_of_another_shape_is_refused(folder: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"observations must have shape \(4,\) or \(B, 4\)"):
        Bundle.load(folder)(np.zeros(shape))


def test_action_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    bundle = Bundle.load(write(tmp_path / "b", contract(), op="Log"))
    with pytest.raises(RobotrlError, match="action 'knee' is not finite"):
        bundle(np.array([1.0, 0.0, 0.0, -1.0]))


def test_action_outside_its_limits_is_refused(folder: Path) -> None:
    bundle = Bundle.load(folder)
    np.testing.assert_allclose(bundle(np.array([0.0, 4.0, 0.0, 0.0])), [-8.0, 2.0])
    with pytest.raises(RobotrlError, match=r"action 'hip' is -8.002, outside its limits \[-8, 8\]"):
        bundle(np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 4.001, 0.0, 0.0]]))


def test_recorded_actions_must_come_out_again(tmp_path: Path) -> None:
    Bundle.load(write(tmp_path / "near", contract(), golden_shift=5e-6))
    far = write(tmp_path / "far", contract(), golden_shift=2e-4)
    with pytest.raises(RobotrlError, match="recorded actions do not come out again"):
        Bundle.load(far)
    Bundle.load(far, check_golden=False)
    with pytest.raises(RobotrlError, match="recorded actions do not come out again"):
        Bundle.load(write(tmp_path / "nan", contract(), golden_shift=float("nan")))


def test_action_error_is_relative_to_wide_ranges_only() -> None:
    zero = np.zeros((1, 2))
    narrow = contract(outputs=(OutputTerm("hip", "N m", -0.1, 0.1, 0.1, 0.0), contract().outputs[1]))
    assert action_error(narrow, np.array([[3e-6, 0.0]]), zero) == 3e-6
    assert action_error(contract(), np.array([[0.0, 6e-4]]), zero) == pytest.approx(1e-5)
    assert np.isnan(action_error(contract(), np.array([[np.nan, 0.0]]), zero))


def test_contract_survives_json_bit_for_bit() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        low, high = sorted(float(x) for x in rng.normal(size=2) * 10.0 ** rng.integers(-12, 12, 2))
        out = OutputTerm("hip", "N m", low, high, (high - low) / 2, (high + low) / 2)
        dt = float(rng.uniform(1e-4, 1.0))
        made = contract(outputs=(out,), control_dt_s=dt, control_hz=1.0 / dt, atol=float(rng.uniform()))
        assert Contract.from_json(made.to_json(), "x") == made


def edited(**changes: object) -> str:
    return json.dumps(json.loads(contract().to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "has schema None"),
        (edited(schema="robotrl.bundle/4"), "has schema 'robotrl.bundle/4'.*reads 'robotrl.bundle/3'"),
        (edited(horizon=0), "horizon must be at least 1, got 0"),
        (edited(horizon=1.5), "horizon: expected int, got 1.5"),
        (edited(atol=float("nan")), "NaN is not a JSON number"),
        (edited(atol="1e-5"), "atol: expected float"),
        (edited(control_dt_s=True), "control_dt_s: expected float"),
        (edited(gains=[1]), "unknown key 'gains'"),
        (edited(inputs=[]), "at least one input"),
        (edited(outputs={}), "outputs: expected a list"),
        (edited(control_hz=100.0), "control_hz 100.0 is not 1 / control_dt_s"),
        (edited(outputs=[{**dataclasses.asdict(contract().outputs[0]), "scale": 2.0}]), "do not map"),
        (edited(inputs=[dataclasses.asdict(contract().inputs[1])]), "starts at 1"),
        (edited(inputs=[dataclasses.asdict(contract().inputs[0])] * 2), "'policy/angle' appears twice"),
        (json.dumps({"schema": SCHEMA}), "is missing"),
    ],
)
def test_impossible_contract_is_refused(text: str, message: str) -> None:
    with pytest.raises(RobotrlError, match=message) as caught:
        Contract.from_json(text, "contract.json")
    assert "\n" not in str(caught.value)


def test_a_robot_needs_neither_torch_nor_mujoco(folder: Path) -> None:
    script = (
        "import sys, numpy as np; from robotrl.deploy.bundle import Bundle; "
        f"print(Bundle.load({str(folder)!r})(np.array([1.0, 2.0, 4.0, 10.0]))); "
        "print([m for m in ('torch', 'mujoco', 'onnx', 'gymnasium', 'omegaconf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[-2. 31.]", "[]"]
