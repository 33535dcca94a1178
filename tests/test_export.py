"""Export: every policy kind becomes a bundle that does the same, whole or not at all."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from bundles import CHECKS, KINDS, LopsidedWalker, contents, failed, make_policy
from torch import Tensor

from robotrl.compose import compose
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import Specs
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.contract import METADATA_KEY
from robotrl.envs.env import specs_of
from robotrl.envs.vec_env import VecEnv
from robotrl.export import bundle as export_bundle
from robotrl.export.bundle import export_policy
from robotrl.export.verify import verify_bundle
from robotrl.policies.deterministic import DeterministicConfig, DeterministicPolicy
from robotrl.policies.gaussian import BetaPolicy, GaussianPolicy, SquashedGaussianPolicy
from robotrl.policies.policy import Policy
from robotrl.tasks.control_suite.walker import Walker
from robotrl.tasks.gymnasium.hopper import Hopper
from robotrl.training.exporting import export_run
from robotrl.training.restore import make_policy as make_policy_of
from robotrl.training.run_folder import RunFolder

Exported = Callable[[str], tuple[Policy, Path]]


@pytest.mark.parametrize("kind", KINDS)
def test_bundle_does_what_the_policy_does(kind: str, exported: Exported) -> None:
    policy, path = exported(kind)
    checks = verify_bundle(path, policy)
    assert failed(checks) == [] and failed(verify_bundle(path)) == []
    assert "200 of 200" in checks[CHECKS.index("replay")].detail
    assert "240 control steps, max abs error" in checks[-1].detail
    # bare onnxruntime against the policy and the actuators' limits, as the issue states it
    session = onnxruntime.InferenceSession(path / "policy.onnx")
    assert sorted(file.name for file in path.iterdir()) == ["contract.json", "golden.npz", "policy.onnx"]
    rng = torch.Generator().manual_seed(1)
    for batch in (1, 7, 256):
        flat = torch.randn(batch, 24, generator=rng) * 5
        with torch.no_grad():
            unit = policy(flat)
        low, high = policy.specs.action_low, policy.specs.action_high
        expected = low + (unit + 1) / 2 * (high - low)
        (action,) = session.run(["action"], {"obs": flat.numpy()})
        assert action.shape == (batch, 6)
        assert np.abs(action - expected.numpy()).max() <= 1e-5
        assert batch < 256 or action.std(axis=0).min() > 0.05  # not a constant
    golden = np.load(path / "golden.npz", allow_pickle=False)
    assert len(golden["observation"]) >= 256 and len(golden["loop_action"]) >= 200


def test_contract_names_everything(exported: Exported) -> None:
    policy, path = exported("beta")
    contract = json.loads((path / "contract.json").read_text())
    start = 0
    for term, written in zip(policy.specs.observation["policy"], contract["inputs"], strict=True):
        assert (written["name"], written["unit"], written["start"]) == (term.name, term.unit, start)
        assert written["shape"] == [term.size] and written["source"] == term.source.value
        assert written["low"] == (term.low if math.isfinite(term.low) else None)
        start += term.size
    assert [out["name"] for out in contract["outputs"]] == [term.name for term in policy.specs.action]
    assert contract["control_hz"] == 40.0 and contract["physics_dt_s"] == 0.0025
    assert contract["training"] == {"seed": 0}
    # the network alone tells the same, but for its own hash
    properties = onnx.load(path / "policy.onnx").metadata_props
    inside = json.loads(next(p.value for p in properties if p.key == METADATA_KEY))
    assert inside == contract | {"policy_sha256": None}
    assert b"site-packages" not in (path / "policy.onnx").read_bytes()


def test_ranges_and_simulation_only_terms(tmp_path: Path) -> None:
    task = LopsidedWalker(move_speed_m_s=0.1 + 0.2, episode_length_s=25.025)
    policy = make_policy(SquashedGaussianPolicy, task)
    with pytest.raises(UsageError, match=r"policy/height, which exist\(s\) in simulation only"):
        export_policy(policy, task, tmp_path / "b", provenance={})
    path = export_policy(policy, task, tmp_path / "b", provenance={}, allow_simulation_only=True)
    checks = verify_bundle(path, policy)
    assert failed(checks) == [] and checks[-1].detail.startswith("200 control steps")
    bundle = Bundle.load(path)
    assert bundle.contract.task["options"]["move_speed_m_s"] == 0.1 + 0.2
    for out, term in zip(bundle.contract.outputs, policy.specs.action, strict=True):
        assert (out.low, out.high) == (term.low, term.high)  # bit for bit
    # what the bundle commands is what the actuators got in training
    env = VecEnv(task, 3, seed=5)
    obs = env.reset()["policy"]
    with torch.no_grad():
        env.step(policy(obs))
    np.testing.assert_allclose(bundle(obs.numpy()), env.sim.data("ctrl").numpy(), atol=1e-6)


def test_task_that_terminates_and_has_infinite_options(tmp_path: Path) -> None:
    policy = make_policy(DeterministicPolicy, Hopper())
    path = export_policy(policy, Hopper(), tmp_path / "b", provenance={})
    checks = verify_bundle(path, policy)
    assert failed(checks) == []
    assert checks[-1].detail.startswith("1000 control steps")
    # untrained hoppers fall within two seconds: the segment crosses resets and still replays
    assert "200 of 200" in checks[CHECKS.index("replay")].detail


class CountingPolicy(DeterministicPolicy):
    """Keeps a hidden state, which ONNX freezes silently."""

    def __init__(self, specs: Specs, config: DeterministicConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config, rng)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, flat: Tensor) -> Tensor:
        self.calls += 1
        return torch.sin(super().forward(flat) + self.calls)


class BranchingPolicy(DeterministicPolicy):
    """Decides in Python by the data, which cannot be traced."""

    def forward(self, flat: Tensor) -> Tensor:
        return super().forward(flat) if float(flat.sum()) > 0 else -super().forward(flat)


class NanPolicy(DeterministicPolicy):
    def forward(self, flat: Tensor) -> Tensor:
        return super().forward(flat) * math.nan


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (CountingPolicy, "recorded actions do not come out again"),
        (BranchingPolicy, "BranchingPolicy does not export to ONNX"),
        (NanPolicy, "returns actions that are not finite"),
    ],
)
def test_policies_that_cannot_be_exported(kind: type[Policy], message: str, tmp_path: Path) -> None:
    with pytest.raises(RobotrlError, match=message) as caught:
        export_policy(make_policy(kind, Walker()), Walker(), tmp_path / "b", provenance={})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_policy_of_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RobotrlError, match="was made for another task than Hopper: "):
        export_policy(make_policy(GaussianPolicy, Walker()), Hopper(), tmp_path / "b", provenance={})


def test_only_bundles_are_replaced(bundle: Path, tmp_path: Path) -> None:
    policy = make_policy(BetaPolicy, Walker(), seed=3)
    notes = Path(shutil.copytree(bundle, tmp_path / "notes"))
    (notes / "notes.txt").write_text("mine")
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    (broken / "contract.json").write_text("{")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(bundle)
    before = contents(tmp_path)
    for name in ("notes", "broken", "file", "link"):
        with pytest.raises(UsageError, match="choose another place"):
            export_policy(policy, Walker(), tmp_path / name, provenance={})
    assert contents(tmp_path) == before
    (bundle / "verification.json").write_text("[]")
    export_policy(policy, Walker(), bundle, provenance={"seed": 3})
    assert failed(verify_bundle(bundle, policy)) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "bundle", "file", "link", "notes"]
    assert not (bundle / "verification.json").exists()


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """Let the kernel refuse files beyond 1 kB, as a disk that fills up does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_leaves_the_old_bundle(
    bundle: Path, small_files_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(bundle.parent)
    monkeypatch.setattr(export_bundle, "to_onnx", lambda policy, contract: bytes(5_000))  # saves time
    with pytest.raises(RobotrlError, match=r"cannot write the bundle .*File too large") as caught:
        export_policy(make_policy(BetaPolicy, Walker()), Walker(), bundle, provenance={})
    assert "\n" not in str(caught.value)
    assert contents(bundle.parent) == before and list(bundle.parent.iterdir()) == [bundle]


@pytest.mark.parametrize("fails_at", [0, 1])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_swap_leaves_the_old_bundle(
    fails_at: int, error: BaseException, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(bundle.parent)
    real, calls = os.replace, iter(range(10))

    def replace(source: Path, target: Path) -> None:
        if next(calls) == fails_at:
            raise error
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(type(error)):
        export_bundle._write_folder(bundle, {"policy.onnx": b"new"}, lambda fresh: None)
    assert contents(bundle.parent) == before and list(bundle.parent.iterdir()) == [bundle]


def test_a_bundle_that_fails_its_check_never_arrives(tmp_path: Path) -> None:
    with pytest.raises(RobotrlError, match=r"contract\.json is missing"):
        export_bundle._write_folder(tmp_path / "b", {"policy.onnx": b"x"}, Bundle.load)
    assert list(tmp_path.iterdir()) == []


def test_export_of_a_run(tmp_path: Path) -> None:
    task = ["task._target_=bundles.LopsidedWalker", "task.episode_length_s=2", "task_name=walker_walk"]
    config = compose([*task, "algorithm=ppo", f"runs_dir={tmp_path}"])
    run = RunFolder.create(config)
    policy = make_policy_of(config, specs_of(config.task), torch.Generator().manual_seed(4))
    run.save_checkpoint(640, {"env_steps": 640, "algorithm": {"policy": policy.state_dict()}}, keep=1)
    run.evaluation.mkdir()
    (run.evaluation / "summary.json").write_text('{"mean": 12.5, "env_steps": 640}')
    with pytest.raises(UsageError, match=r"policy/height.*`robotrl export`: --allow-simulation-only"):
        export_run(run.path)
    path = export_run(run.path, allow_simulation_only=True)
    assert path == run.bundle and failed(verify_bundle(path, policy)) == []
    contract = Bundle.load(path).contract
    assert contract.task["name"] == "walker_walk"
    (run.evaluation / "summary.json").write_text('{"mean": null, "env_steps": 640}')  # all diverged
    again = Bundle.load(export_run(run.path, allow_simulation_only=True)).contract
    assert again.training["return_mean"] is None
    assert contract.training == {
        "algorithm": "ppo",
        "seed": 0,
        "env_steps": 640,
        "return_mean": 12.5,
        "task_name": "walker_walk",
        "data": None,
        "init_from": None,
    }
