"""Verify a bundle: parts fit each other, recorded actions come out again, the closed loop holds.

Contacts make a closed loop chaotic: two controllers that differ by one float32 rounding drift apart
within seconds, so trajectories of the exported and the training policy must not be compared with each
other. What must hold exactly is each single step, and by induction the loop:

* at every recorded observation, and noise where the policy decides from noise, the network returns the
  recorded decision (`recorded actions`),
* the rebuilt task, started from the recorded state and fed the recorded actions, shows the recorded
  observations (`replay`). On the machine that recorded them every step agrees; elsewhere last-bit
  differences of the mathematical library may grow, so the first 20 control steps decide,
* the same policy in further formats returns the recorded decisions (`policy.c`, `policy.pt2`),
* driven by the network itself, the task stays sound for a whole episode (200 control steps where an
  episode has more than 1000), and every decision made there, executed as a robot would, is the training
  policy's (`closed loop`).

Another library's environment cannot be put into a recorded state: nothing is replayed there, and its
closed loop is a fresh episode, of which 200 control steps at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import torch

from robotrl.core.config import evaluation_seed, learner_seed
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.bundle import Bundle, action_error
from robotrl.deploy.contract import C_FILE, GOLDEN_FILE, PT2_FILE, Contract
from robotrl.deploy.controller import BundleController
from robotrl.deploy.recordings import check_array, check_decisions
from robotrl.envs.env import AnyTask, Env, make_env, specs_of
from robotrl.envs.foreign.task import ForeignTask
from robotrl.envs.vec_env import VecEnv
from robotrl.export.description import describe_physics, input_terms, output_terms, rebuild_task
from robotrl.export.formats import format_error
from robotrl.export.golden import LOOP_STEPS, loop_state
from robotrl.export.network import PhysicalPolicy
from robotrl.export.noise import SettledNoise
from robotrl.export.robot import describe_robot
from robotrl.policies.policy import Policy
from robotrl.sim.threads import one_torch_thread
from robotrl.tasks.task import Task

REPLAY_STEPS = 20
MAX_LOOP_STEPS = 1000
_OBS_RTOL = 1e-5


@dataclass(frozen=True)
class Check:
    """One thing that was verified.

    Attributes:
        name: what.
        passed: whether it holds.
        detail: measured numbers, for people.
    """

    name: str
    passed: bool
    detail: str


def verify_bundle(bundle: Path, policy: Policy | None = None) -> list[Check]:
    """Check a bundle against its recordings, its rebuilt task and, if given, the training policy.

    Args:
        bundle: the folder.
        policy: the policy it was exported from.

    Returns:
        The checks in the order in which they were made; the bundle is good if all passed.

    Raises:
        RobotrlError: parts are missing, damaged or do not fit each other, so that nothing can be
            measured; names the part.
    """
    loaded = Bundle.load(bundle, check_golden=False)
    contract, golden = loaded.contract, loaded.golden
    task = rebuild_task(contract.task)
    _refuse_other_task(contract, task)
    _check_loop_arrays(loaded)
    checks = [
        Check(
            "parts",
            True,
            f"{contract.schema}; {len(contract.inputs)} input terms ({contract.input_size} values), "
            f"{len(contract.outputs)} actions{_decisions(contract)}; network, recordings and contract "
            "belong together",
        ),
        Check(
            "task",
            True,
            f"{contract.task['name']}: "
            + (f"model {contract.model_sha256[:12]}, " if contract.model_sha256 else "")
            + f"{_rate(contract.control_dt_s)}, all terms as in the contract",
        ),
    ]
    for name, prefix in (("golden vectors", ""), ("recorded actions", "loop_")):
        observation, action = golden[f"{prefix}observation"], golden[f"{prefix}action"]
        error = action_error(contract, loaded(observation, golden.get(f"{prefix}noise")), action)
        checks.append(
            Check(name, error <= contract.atol, f"max abs error {error:.2g} over {len(action)} observations")
        )
    checks += [_format(loaded, file) for file in (C_FILE, PT2_FILE) if (loaded.path / file).exists()]
    if not isinstance(task, ForeignTask):
        checks.append(_replay(task, loaded))
    checks.append(_closed_loop(task, loaded, policy))
    return checks


def _format(loaded: Bundle, file: str) -> Check:
    """Let a further format decide what is recorded."""
    try:
        error = format_error(loaded, file)
    except RobotrlError as refused:
        return Check(file, False, str(refused))
    count = len(loaded.golden["action"])
    return Check(file, error <= loaded.contract.atol, f"max abs error {error:.2g} over {count} observations")


def _decisions(contract: Contract) -> str:
    chunk = f", {contract.horizon} control steps at a time" if contract.horizon > 1 else ""
    return chunk + (f", from {contract.noise_dim} random numbers" if contract.noise_dim else "")


def _rate(control_dt_s: float | None) -> str:
    return "an unknown control rate" if control_dt_s is None else f"{1 / control_dt_s:g} Hz"


def _refuse_other_task(contract: Contract, task: AnyTask) -> None:
    """Raise if the task as it is today is not the one in the contract."""
    specs, name = specs_of(task), contract.task["name"]
    today = describe_physics(task, specs)
    if any(today[key] != getattr(contract, key) for key in ("control_dt_s", "physics_dt_s")):
        raise RobotrlError(
            f"the control rate does not fit: task {name} runs at {_rate(today['control_dt_s'])} with physics "
            f"steps of {today['physics_dt_s']} s, the contract says {_rate(contract.control_dt_s)} and "
            f"{contract.physics_dt_s} s"
        )
    if today["model_sha256"] != contract.model_sha256:
        hint = (
            f" (compiled by MuJoCo {contract.mujoco_version}, this is {mujoco.__version__})"
            if mujoco.__version__ != contract.mujoco_version
            else ""
        )
        raise RobotrlError(
            f"the model does not fit: task {name} now builds another model than the bundle's{hint}"
        )
    unknown = [group for group in contract.groups if group not in specs.observation]
    if unknown or input_terms(specs, contract.groups) != contract.inputs:
        raise RobotrlError(
            f"the inputs do not fit: task {name} now has other observation terms than the contract"
        )
    if output_terms(specs) != contract.outputs:
        raise RobotrlError(
            f"the outputs do not fit: task {name} now has other action terms than the contract"
        )
    if contract.robot is not None and (
        isinstance(task, ForeignTask) or describe_robot(task, specs) != contract.robot
    ):
        raise RobotrlError(
            f"the robot does not fit: task {name} now has other joints, drives or delays than the contract"
        )


def _check_loop_arrays(loaded: Bundle) -> None:
    file, golden, contract = loaded.path / GOLDEN_FILE, loaded.golden, loaded.contract
    check_decisions(file, golden, contract, "loop_", LOOP_STEPS)
    check_array(file, golden, "loop_command", (len(contract.outputs),), LOOP_STEPS)
    check_array(file, golden, "loop_reward", (), LOOP_STEPS)


def _recorded_env(task: Task, loaded: Bundle) -> VecEnv:
    """Return one environment in the state from which the recorded segment starts."""
    env = VecEnv(task, 1, num_threads=1)
    env.reset()
    try:
        env.load_state_dict(loop_state(loaded.golden))
    except (KeyError, ValueError, RuntimeError) as error:
        raise RobotrlError(
            f"{loaded.path / GOLDEN_FILE}: the recorded state does not load: {error}"
        ) from error
    return env


@one_torch_thread()
def _replay(task: Task, loaded: Bundle) -> Check:
    """Feed the recorded actions to the rebuilt task and follow the recorded observations."""
    env, groups = _recorded_env(task, loaded), loaded.contract.groups
    recorded = loaded.golden["loop_observation"]
    agreed = 1
    for command, expected in zip(loaded.golden["loop_command"][:-1], recorded[1:], strict=False):
        obs = env.step(torch.from_numpy(command).unsqueeze(0)).obs
        actual = torch.cat([obs[group] for group in groups], dim=-1).numpy()[0]
        # written so that NaN ends the agreement
        if not np.all(np.abs(actual - expected) <= _OBS_RTOL * np.maximum(1.0, np.abs(expected))):
            break
        agreed += 1
    return Check(
        "replay",
        agreed >= REPLAY_STEPS,
        f"the task shows the recorded observations for {agreed} of {len(recorded)} control steps "
        f"(at least {REPLAY_STEPS} needed)",
    )


def _start(task: AnyTask, loaded: Bundle) -> tuple[Env, np.ndarray, int]:
    """Return one environment, its (D,) observation and the control steps to take in it."""
    if isinstance(task, ForeignTask):
        env = make_env(task, 1, evaluation_seed(0), num_threads=1)
        obs = env.reset()
        return env, torch.cat([obs[group] for group in loaded.contract.groups], dim=-1).numpy()[0], LOOP_STEPS
    own = _recorded_env(task, loaded)
    steps = own.max_steps if own.max_steps <= MAX_LOOP_STEPS else LOOP_STEPS
    return own, loaded.golden["loop_observation"][0], steps


@one_torch_thread()
@torch.no_grad()
def _closed_loop(task: AnyTask, loaded: Bundle, policy: Policy | None) -> Check:
    """Let the network drive the task and compare it with the training policy wherever it goes."""
    env, flat, steps = _start(task, loaded)
    groups, contract = loaded.contract.groups, loaded.contract
    controller = BundleController(loaded)
    trained = None if policy is None else _TrainedPolicy(_fitting(policy, loaded))
    scale = np.array([term.scale for term in contract.outputs])
    offset = np.array([term.offset for term in contract.outputs])
    error, rewards, sound = 0.0, list[float](), True
    for _ in range(steps):
        noise = trained.decide(flat) if trained is not None and controller.due else None
        try:
            action = controller(flat, noise)
        except RobotrlError as refused:
            return Check("closed loop", False, str(refused))
        if trained is not None:
            expected = trained.left.pop(0)
            error = float(np.maximum(error, action_error(contract, action, expected)))  # keeps NaN
        command = (action.astype(np.float64) - offset) / scale
        step = env.step(torch.from_numpy(command).clamp(-1.0, 1.0).unsqueeze(0))
        rewards.append(float(step.reward))
        sound = sound and bool(step.valid.all())
        flat = torch.cat([step.obs[group] for group in groups], dim=-1).numpy()[0]
        if bool(step.done):
            controller.reset()
            if isinstance(task, ForeignTask):
                break
    against = (
        "training policy not at hand"
        if policy is None
        else f"max abs error {error:.2g} against the training policy"
    )
    return Check(
        "closed loop",
        sound and error <= contract.atol,
        f"{len(rewards)} control steps, {against}; "
        + (_fresh(rewards) if isinstance(task, ForeignTask) else _against_recorded(rewards, loaded))
        + ("" if sound else "; the simulation diverged"),
    )


class _TrainedPolicy:
    """The training policy beside the controller: `left` are the actions it would still take, (A,) each."""

    def __init__(self, policy: Policy) -> None:
        self.physical = PhysicalPolicy(policy).eval()
        self.noise = SettledNoise(policy, torch.Generator().manual_seed(learner_seed(0)))
        self.left: list[np.ndarray] = []

    def decide(self, flat: np.ndarray) -> np.ndarray | None:
        """Decide for a raw observation (D,); return the noise that was drawn for it."""
        obs = torch.from_numpy(flat).unsqueeze(0)
        noise = self.noise.draw(obs)
        self.left = list(
            self.physical(obs, noise).unflatten(1, (self.physical.policy.horizon, -1))[0].numpy()
        )
        return None if noise is None else noise[0].numpy()


def _fresh(rewards: list[float]) -> str:
    return f"return {sum(rewards):.6g} in a fresh episode, as it cannot be put into a recorded state"


def _against_recorded(rewards: list[float], loaded: Bundle) -> str:
    compared = min(len(rewards), LOOP_STEPS)
    total, recorded = sum(rewards[:compared]), float(loaded.golden["loop_reward"][:compared].sum())
    return (
        f"return of the first {compared} {total:.6g}, recorded {recorded:.6g} "
        f"(difference {total - recorded:.2g})"
    )


def _fitting(policy: Policy, loaded: Bundle) -> Policy:
    contract = loaded.contract
    if (
        input_terms(policy.specs, policy.obs_groups) != contract.inputs
        or output_terms(policy.specs) != contract.outputs
    ):
        raise UsageError(
            f"{loaded.path} was not exported from this policy: other observation or action terms"
        )
    made = {name: getattr(policy, name) for name in ("horizon", "noise_dim", "sampling_steps")}
    exported = {name: getattr(contract, name) for name in made}
    if made != exported:
        raise UsageError(
            f"{loaded.path} was not exported from this policy: {exported}, the policy's are {made}"
        )
    return policy
