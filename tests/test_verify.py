"""Verification: every way in which a bundle can be wrong is found and named."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import failed, make_policy

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.contract import METADATA_KEY
from robotrl.export.bundle import export_policy
from robotrl.export.description import describe_task, rebuild_task
from robotrl.export.verify import verify_bundle
from robotrl.policies.gaussian import GaussianPolicy
from robotrl.policies.policy import Policy
from robotrl.tasks.control_suite.walker import Walker
from robotrl.tasks.gymnasium.hopper import Hopper

Exported = Callable[[str], tuple[Policy, Path]]
Tamper = Callable[[Path, Path], None]


def flip_byte(at: float) -> Tamper:
    def tamper(bundle: Path, other: Path) -> None:
        raw = bytearray((bundle / "policy.onnx").read_bytes())
        raw[int(at * (len(raw) - 1))] ^= 1
        (bundle / "policy.onnx").write_bytes(raw)

    return tamper


def swap(*names: str) -> Tamper:
    def tamper(bundle: Path, other: Path) -> None:
        for name in names:
            shutil.copy(other / name, bundle / name)

    return tamper


def truncate(name: str, share: float) -> Tamper:
    def tamper(bundle: Path, other: Path) -> None:
        raw = (bundle / name).read_bytes()
        (bundle / name).write_bytes(raw[: int(len(raw) * share)])

    return tamper


def delete(name: str) -> Tamper:
    return lambda bundle, other: (bundle / name).unlink()


def rewrite(edit: Callable[[dict[str, Any]], object]) -> Tamper:
    def tamper(bundle: Path, other: Path) -> None:
        contract = json.loads((bundle / "contract.json").read_text())
        edit(contract)
        (bundle / "contract.json").write_text(json.dumps(contract))

    return tamper


def reorder(contract: dict[str, Any]) -> None:
    contract["inputs"].reverse()
    start = 0
    for term in contract["inputs"]:
        term["start"] = start
        start += term["shape"][0]


def adopt_golden(bundle: Path, other: Path) -> None:
    """Take another bundle's recordings and write their hash into the contract."""
    swap("golden.npz")(bundle, other)
    sha = hashlib.sha256((other / "golden.npz").read_bytes()).hexdigest()
    rewrite(lambda contract: contract.update(golden_sha256=sha))(bundle, other)


def adopt_network(bundle: Path, other: Path) -> None:
    swap("policy.onnx")(bundle, other)
    sha = hashlib.sha256((other / "policy.onnx").read_bytes()).hexdigest()
    rewrite(lambda contract: contract.update(policy_sha256=sha))(bundle, other)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (flip_byte(0.0), "policy.onnx was changed"),
        (flip_byte(0.5), "policy.onnx was changed"),
        (flip_byte(1.0), "policy.onnx was changed"),
        (swap("golden.npz"), "golden.npz was changed or belongs to another bundle"),
        (swap("policy.onnx"), "policy.onnx was changed or belongs to another bundle"),
        (swap("contract.json"), "policy.onnx was changed or belongs to another bundle"),
        (swap("policy.onnx", "golden.npz"), "policy.onnx was changed or belongs to another bundle"),
        (adopt_golden, "contract.json does not fit .*policy.onnx: they disagree about golden_sha256"),
        (adopt_network, "contract.json does not fit .*policy.onnx: they disagree about .*golden_sha256"),
        (rewrite(lambda c: c.update(control_hz=50.0, control_dt_s=0.02)), "disagree about control_hz, contr"),
        (
            rewrite(lambda c: c["outputs"].reverse()),
            "robot: drives are of right_hip.* outputs are left_ankle",
        ),
        (rewrite(lambda c: [c["outputs"].reverse(), c["robot"]["drives"].reverse()]), "about outputs, robot"),
        (rewrite(reorder), "disagree about inputs"),
        (rewrite(lambda c: c["task"]["options"].update(move_speed_m_s=8.0)), "disagree about task"),
        (rewrite(lambda c: c.pop("outputs")), "'outputs' is missing"),
        (delete("policy.onnx"), "not a complete bundle: policy.onnx is missing"),
        (delete("contract.json"), "not a complete bundle: contract.json is missing"),
        (delete("golden.npz"), "not a complete bundle: golden.npz is missing"),
        (truncate("policy.onnx", 0.5), "policy.onnx was changed"),
        (truncate("golden.npz", 0.5), "golden.npz was changed"),
        (truncate("contract.json", 0.5), "contract.json is not valid JSON"),
        (truncate("contract.json", 0.0), "contract.json is not valid JSON"),
        (lambda bundle, other: (bundle / "contract.json").write_bytes(b"\xff\xfe\x00"), "is not text"),
        (lambda bundle, other: shutil.rmtree(bundle), "is not a bundle folder"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tamper: Tamper,
    message: str,
    bundle: Path,
    exported: Exported,
) -> None:
    tamper(bundle, exported("beta")[1])
    for read in (verify_bundle, Bundle.load):
        with pytest.raises(RobotrlError, match=message) as caught:
            read(bundle)
        assert "\n" not in str(caught.value)


def forge(bundle: Path, arrays: dict[str, np.ndarray] | None = None, **changes: Any) -> None:
    """Change recordings and contract, with all hashes and the network's metadata made to agree."""
    golden = dict(np.load(bundle / "golden.npz", allow_pickle=False)) | (arrays or {})
    np.savez(bundle / "golden.npz", **golden)
    contract = json.loads((bundle / "contract.json").read_text()) | changes
    contract["golden_sha256"] = hashlib.sha256((bundle / "golden.npz").read_bytes()).hexdigest()
    contract["policy_sha256"] = None
    model = onnx.load(bundle / "policy.onnx")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(contract)})
    onnx.save(model, bundle / "policy.onnx")
    contract["policy_sha256"] = hashlib.sha256((bundle / "policy.onnx").read_bytes()).hexdigest()
    (bundle / "contract.json").write_text(json.dumps(contract))


def test_forging_without_a_change_is_harmless(bundle: Path) -> None:
    forge(bundle)
    assert failed(verify_bundle(bundle)) == []


@pytest.mark.parametrize(
    ("array", "change", "names"),
    [
        ("action", 2e-5, ["golden vectors"]),
        ("action", math.nan, ["golden vectors"]),
        ("loop_action", 2e-5, ["recorded actions"]),
        ("loop_action", math.nan, ["recorded actions"]),
        ("loop_command", 1e-3, ["replay"]),
        ("loop_observation", math.nan, None),
    ],
)
def test_wrong_recordings_fail(array: str, change: float, names: list[str] | None, bundle: Path) -> None:
    values = np.load(bundle / "golden.npz")[array].copy()
    values[3] = np.clip(values[3] + change, -1, 1) if array == "loop_command" else values[3] + change
    forge(bundle, {array: values})
    if names is None:
        with pytest.raises(RobotrlError, match="loop_observation holds values that are not finite"):
            verify_bundle(bundle)
    else:
        assert failed(verify_bundle(bundle)) == names


def test_recordings_of_another_shape_are_refused(bundle: Path) -> None:
    golden = dict(np.load(bundle / "golden.npz"))
    for name, values, message in (
        ("observation", golden["observation"][:, 1:], r"observation is float32 \(272, 23\)"),
        ("action", np.float32(0.0), r"action is float32 \(\)"),
        ("loop_reward", golden["loop_reward"][:199], r"loop_reward is float32 \(199,\), needs .* 200\+ rows"),
        ("loop_action", golden["loop_action"].astype(str), "loop_action is <U"),
    ):
        forge(bundle, golden | {name: values})
        with pytest.raises(RobotrlError, match=message):
            verify_bundle(bundle)


def test_wrong_starting_state_fails(bundle: Path) -> None:
    state = np.load(bundle / "golden.npz")["loop_state::sim::state"].copy()
    state[0, 4] += 1e-3  # a joint angle
    forge(bundle, {"loop_state::sim::state": state})
    assert "replay" in failed(verify_bundle(bundle))


def test_forged_contract_is_found_out_by_the_task(bundle: Path) -> None:
    contract = json.loads((bundle / "contract.json").read_text())
    faster = {"task": contract["task"] | {"options": contract["task"]["options"] | {"control_dt_s": 0.02}}}
    lopsided = {"task": contract["task"] | {"_target_": "bundles.LopsidedWalker"}}
    foreign = {"task": contract["task"] | {"_target_": "pathlib.Path"}}
    gone = {"task": contract["task"] | {"_target_": "robotrl.tasks.control_suite.walker.Wallker"}}
    first = contract["inputs"][0]
    robot = contract["robot"] | {"drives": contract["robot"]["drives"][::-1]}
    turned = {"outputs": contract["outputs"][::-1], "robot": robot}
    for changes, message in (
        (faster, "control rate does not fit: task Walker runs at 50 Hz .* contract says 40 Hz"),
        (lopsided, "the model does not fit"),
        ({"model_sha256": "0" * 64}, "the model does not fit"),
        (foreign, "cannot be rebuilt here"),
        (gone, "cannot be rebuilt here: .*'Wallker'.*'Walker'"),
        ({"inputs": [first | {"unit": "m"}, *contract["inputs"][1:]]}, "the inputs do not fit"),
        (turned, "the outputs do not fit"),
    ):
        forge(bundle, **(contract | changes))
        with pytest.raises(RobotrlError, match=message) as caught:
            verify_bundle(bundle)
        assert "\n" not in str(caught.value)


def test_recordings_are_never_unpickled(bundle: Path) -> None:
    np.savez(bundle / "golden.npz", observation=np.array([{}], dtype=object), allow_pickle=True)
    model_sha = hashlib.sha256((bundle / "golden.npz").read_bytes()).hexdigest()
    model = onnx.load(bundle / "policy.onnx")
    contract = json.loads((bundle / "contract.json").read_text())
    contract |= {"golden_sha256": model_sha, "policy_sha256": None}
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(contract)})
    onnx.save(model, bundle / "policy.onnx")
    contract["policy_sha256"] = hashlib.sha256((bundle / "policy.onnx").read_bytes()).hexdigest()
    (bundle / "contract.json").write_text(json.dumps(contract))
    with pytest.raises(RobotrlError, match=r"golden\.npz is not an archive of arrays"):
        verify_bundle(bundle)


def test_a_bundle_finds_the_model_file_in_the_package_of_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the path is an annotated field, so an option of the task, and the package has moved."""
    example = Path(__file__).parent.parent / "examples" / "my_robot" / "my_robot"
    here, there = tmp_path / "here", tmp_path / "there"
    package = Path(shutil.copytree(example, here / "arm_package"))
    source = (example / "__init__.py").read_text().replace("    mjcf = Path(", "    mjcf: Path = Path(")
    (package / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(here)
    task = importlib.import_module("arm_package").MyTask()
    bundle = export_policy(make_policy(GaussianPolicy, task), task, tmp_path / "b", provenance={})
    outside = describe_task(task.__class__(mjcf=shutil.copy(task.mjcf, tmp_path / "arm.xml")), "arm")
    assert json.loads((bundle / "contract.json").read_text())["task"]["options"]["mjcf"]
    assert str(tmp_path) not in (bundle / "contract.json").read_text()

    here.rename(there)
    monkeypatch.delitem(sys.modules, "arm_package")
    monkeypatch.syspath_prepend(there)
    assert failed(verify_bundle(bundle)) == []
    assert rebuild_task(outside).mjcf == tmp_path / "arm.xml"
    for file, read in (
        (there / "arm_package" / "arm.xml", lambda: verify_bundle(bundle)),
        (tmp_path / "arm.xml", lambda: rebuild_task(outside)),
    ):
        file.unlink()
        told = f"arm_package.MyTask needs its model file {file}, which is not here: put it there, or"
        with pytest.raises(RobotrlError, match=re.escape(told)) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_another_policy_is_told_apart(exported: Exported) -> None:
    path = exported("gaussian")[1]
    assert failed(verify_bundle(path, make_policy(GaussianPolicy, Walker(), seed=1))) == ["closed loop"]
    with pytest.raises(UsageError, match="was not exported from this policy"):
        verify_bundle(path, make_policy(GaussianPolicy, Hopper()))
