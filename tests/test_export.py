"""Export and verification: every policy kind, every way in which a bundle can be wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from robotrl.compose import compose
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import ObsTerm, Source, Specs
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.contract import METADATA_KEY
from robotrl.envs.vec_env import VecEnv
from robotrl.export import bundle as export_bundle
from robotrl.export.bundle import export_policy
from robotrl.export.verify import verify_bundle
from robotrl.policies.deterministic import DeterministicConfig, DeterministicPolicy
from robotrl.policies.gaussian import BetaPolicy, GaussianPolicy, SquashedGaussianPolicy
from robotrl.policies.policy import Policy
from robotrl.tasks.control_suite.walker import Walker
from robotrl.tasks.gymnasium.hopper import Hopper
from robotrl.tasks.task import Task
from robotrl.training.exporting import export_run
from robotrl.training.restore import make_policy as make_policy_of
from robotrl.training.run_folder import RunFolder

KINDS: dict[str, type[Policy]] = {
    "gaussian": GaussianPolicy,
    "squashed": SquashedGaussianPolicy,
    "beta": BetaPolicy,
    "deterministic": DeterministicPolicy,
}
CHECKS = ["parts", "task", "golden vectors", "recorded actions", "replay", "closed loop"]


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


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Policy, Path]]:
    """One bundle per kind of policy; never changed."""
    folder = tmp_path_factory.mktemp("bundles")
    made = {}
    for kind, cls in KINDS.items():
        policy = make_policy(cls, Walker())
        made[kind] = policy, export_policy(policy, Walker(), folder / kind, provenance={"seed": 0})
    return made


@pytest.fixture
def bundle(exported: dict[str, tuple[Policy, Path]], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(exported["gaussian"][1], tmp_path / "bundle"))


def failed(checks: list[Any]) -> list[str]:
    assert [check.name for check in checks] == CHECKS
    return [check.name for check in checks if not check.passed]


@pytest.mark.parametrize("kind", KINDS)
def test_bundle_does_what_the_policy_does(kind: str, exported: dict[str, tuple[Policy, Path]]) -> None:
    policy, path = exported[kind]
    checks = verify_bundle(path, policy)
    assert failed(checks) == [] and failed(verify_bundle(path)) == []
    assert "200 of 200" in checks[CHECKS.index("replay")].detail
    assert "1000 control steps, max abs error" in checks[-1].detail  # an episode of 25 s
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


def test_contract_names_everything(exported: dict[str, tuple[Policy, Path]]) -> None:
    policy, path = exported["beta"]
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
    # untrained hoppers fall within two seconds: the segment crosses resets and still replays
    assert "200 of 200" in checks[CHECKS.index("replay")].detail


def flip_byte(at: float) -> Callable[[Path, Path], None]:
    def tamper(bundle: Path, other: Path) -> None:
        raw = bytearray((bundle / "policy.onnx").read_bytes())
        raw[int(at * (len(raw) - 1))] ^= 1
        (bundle / "policy.onnx").write_bytes(raw)

    return tamper


def swap(*names: str) -> Callable[[Path, Path], None]:
    def tamper(bundle: Path, other: Path) -> None:
        for name in names:
            shutil.copy(other / name, bundle / name)

    return tamper


def truncate(name: str, share: float) -> Callable[[Path, Path], None]:
    def tamper(bundle: Path, other: Path) -> None:
        raw = (bundle / name).read_bytes()
        (bundle / name).write_bytes(raw[: int(len(raw) * share)])

    return tamper


def delete(name: str) -> Callable[[Path, Path], None]:
    return lambda bundle, other: (bundle / name).unlink()


def rewrite(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], None]:
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
        (rewrite(lambda c: c["outputs"].reverse()), "disagree about outputs"),
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
    tamper: Callable[[Path, Path], None],
    message: str,
    bundle: Path,
    exported: dict[str, tuple[Policy, Path]],
) -> None:
    tamper(bundle, exported["beta"][1])
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
    lopsided = {"task": contract["task"] | {"_target_": f"{__name__}.LopsidedWalker"}}
    foreign = {"task": contract["task"] | {"_target_": "pathlib.Path"}}
    gone = {"task": contract["task"] | {"_target_": "robotrl.tasks.control_suite.walker.Wallker"}}
    first = contract["inputs"][0]
    for changes, message in (
        (faster, "control rate does not fit: task Walker runs at 50 Hz .* contract says 40 Hz"),
        (lopsided, "the model does not fit"),
        ({"model_sha256": "0" * 64}, "the model does not fit"),
        (foreign, "cannot be rebuilt here"),
        (gone, "cannot be rebuilt here: .*'Wallker'.*'Walker'"),
        ({"inputs": [first | {"unit": "m"}, *contract["inputs"][1:]]}, "the inputs do not fit"),
        ({"outputs": contract["outputs"][::-1]}, "the outputs do not fit"),
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


def test_another_policy_is_told_apart(exported: dict[str, tuple[Policy, Path]]) -> None:
    path = exported["gaussian"][1]
    assert failed(verify_bundle(path, make_policy(GaussianPolicy, Walker(), seed=1))) == ["closed loop"]
    with pytest.raises(UsageError, match="was not exported from this policy"):
        verify_bundle(path, make_policy(GaussianPolicy, Hopper()))


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
    with pytest.raises(RobotrlError, match="was made for other observations or actions than Hopper's"):
        export_policy(make_policy(GaussianPolicy, Walker()), Hopper(), tmp_path / "b", provenance={})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_only_bundles_are_replaced(bundle: Path, tmp_path: Path) -> None:
    policy = make_policy(BetaPolicy, Walker(), seed=3)
    notes = Path(shutil.copytree(bundle, tmp_path / "notes"))
    (notes / "notes.txt").write_text("mine")
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    truncate("contract.json", 0.5)(broken, bundle)
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
    task = [f"task._target_={__name__}.LopsidedWalker", "task.episode_length_s=2", "task_name=walker_walk"]
    config = compose([*task, "algorithm=ppo", f"runs_dir={tmp_path}"])
    run = RunFolder.create(config)
    policy = make_policy_of(config, torch.Generator().manual_seed(4))
    run.save_checkpoint(640, {"env_steps": 640, "algorithm": {"policy": policy.state_dict()}}, keep=1)
    run.evaluation.mkdir()
    (run.evaluation / "summary.json").write_text('{"mean": 12.5, "env_steps": 640}')
    with pytest.raises(UsageError, match=r"policy/height.*`robotrl export`: --allow-simulation-only"):
        export_run(run.path)
    path = export_run(run.path, allow_simulation_only=True)
    assert path == run.bundle and failed(verify_bundle(path, policy)) == []
    contract = Bundle.load(path).contract
    assert contract.task["name"] == "walker_walk"
    assert contract.training == {
        "algorithm": "PPO",
        "seed": 0,
        "env_steps": 640,
        "return_mean": 12.5,
        "task_name": "walker_walk",
    }
