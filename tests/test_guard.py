"""Injected faults: who is caught, what is written about it, whether that plays and computes again."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
import torch
from explosive import DRIVING, Explosive, random_actions

from robotrl.compose import compose, compose_task
from robotrl.core.errors import UsageError
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.guard import FailureRecorder
from robotrl.sim.sim import Stage
from robotrl.tasks.control_suite.cartpole import Cartpole
from robotrl.tasks.task import Task

# --- what is caught

BOXES = "".join(
    f"<body pos='{0.15 * i} 0 0.09'><freejoint/><geom type='box' size='.1 .1 .1' mass='1'/></body>"
    for i in range(6)
)
SLIDE = """
<body pos="0 0 1"><joint name="slide" type="slide" axis="1 0 0"/><geom size=".1" mass="1"/></body>
"""
POSITION = '<position joint="slide" kp="10" kv="1"/>'


def sim_of(bodies: str, stage: Stage, memory: str = "1M", actuators: str = "") -> BatchSim:
    model = mujoco.MjModel.from_xml_string(
        f"<mujoco><size memory='{memory}'/><option timestep='0.01'/><worldbody>"
        f"<geom type='plane' size='5 5 .1'/>{bodies}</worldbody><actuator>{actuators}</actuator></mujoco>"
    )
    return BatchSim(model, 3, 1, stage)


def pile(stage: Stage, memory: str) -> tuple[BatchSim, BatchSim]:
    """Boxes that touch each other in simulation 1 only, and the same without a touch anywhere."""
    sims = sim_of(BOXES, stage, memory), sim_of(BOXES, stage, memory)
    for i, sim in enumerate(sims):
        lifted = torch.tensor([1.0, float(i), 1.0], dtype=torch.float64)
        sim.data("qpos")[:, 2::7] += lifted.unsqueeze(1) * torch.arange(1, 7)
    return sims


def gains(stage: Stage, kp: float) -> tuple[BatchSim, BatchSim]:
    """A servo whose gain in simulation 1 is far too high for the time step, and one with none too high."""
    sims = sim_of(SLIDE, stage, actuators=POSITION), sim_of(SLIDE, stage, actuators=POSITION)
    sims[0].param("actuator_gainprm")[1, 0, 0] = kp
    sims[0].param("actuator_biasprm")[1, 0, 1] = -kp
    return sims


def written(stage: Stage, field: str, value: float) -> tuple[BatchSim, BatchSim]:
    sims = sim_of(SLIDE, stage, actuators=POSITION), sim_of(SLIDE, stage, actuators=POSITION)
    sims[0].data(field)[1, 0] = value
    return sims


FAULTS = {
    "nan velocity": (lambda s: written(s, "qvel", math.nan), "velocity not finite or huge"),
    "infinite force": (lambda s: written(s, "qfrc_applied", math.inf), "acceleration not finite or huge"),
    "huge acceleration": (lambda s: written(s, "qfrc_applied", 1e11), "acceleration not finite or huge"),
    "gain beyond the time step": (lambda s: gains(s, 1e6), "acceleration not finite or huge"),
    "contacts and constraints": (lambda s: pile(s, "14K"), "more contacts than its memory holds"),
    "constraints": (lambda s: pile(s, "60K"), "more constraints than its memory holds"),
    "engine error": (lambda s: pile(s, "5K"), "mj_stackAlloc: out of memory"),
}


@pytest.mark.parametrize("stage", [Stage.NONE, Stage.VELOCITY])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_caught_in_its_own_simulation(fault: str, stage: Stage) -> None:
    make, cause = FAULTS[fault]
    faulty, sound = make(stage)
    ctrl = torch.ones(3, faulty.model.nu, dtype=torch.float64)
    for _ in range(60):
        faulty.step(ctrl, 2)
        sound.step(ctrl, 2)
        assert sound.failed() is None
        failed = faulty.failed()
        np.testing.assert_array_equal(faulty.batch.state[[0, 2]], sound.batch.state[[0, 2]])
        if failed is not None:
            break
    assert failed is not None and failed.tolist() == [False, True, False]
    assert any(found.startswith(cause) for found in faulty.failure_causes(1)), faulty.failure_causes(1)
    assert not any("\n" in found for found in faulty.failure_causes(1))
    assert faulty.failure_causes(0) == faulty.failure_causes(2) == ()


# --- what is recorded


def recorded_env(task: Task, num_envs: int, steps: int, limit: int = 100) -> VecEnv:
    env = VecEnv(task, num_envs, seed=4, num_threads=1)
    env.recorder = FailureRecorder(env.sim, env.substeps, env.specs.action_dim, steps, limit)
    env.reset()
    return env


@pytest.mark.parametrize("steps", [7, 1000])
def test_states_and_commands_are_those_of_the_episode_that_failed(steps: int) -> None:
    env = recorded_env(Explosive(), 6, steps)
    seen: list[list[tuple[np.ndarray, float]]] = [[] for _ in range(6)]
    checked, shorter = 0, 0
    for number, action in zip(range(1, 300), random_actions(env), strict=False):
        for i in range(6):
            if env.age[i] == 0:
                seen[i] = []
            seen[i].append((env.sim.batch.state[i].copy(), float(action[i])))
        step = env.step(action)
        failures = env.recorder.take()
        assert [f.simulation for f in failures] == (~step.valid).nonzero().squeeze(1).tolist()
        for failure in failures:
            states, commands = zip(*seen[failure.simulation][-steps:], strict=True)
            np.testing.assert_array_equal(failure.states.numpy(), np.stack(states))
            # the range of the cart's motor is [-1, 1]
            assert failure.commands.squeeze(1).tolist() == pytest.approx(commands)
            assert failure.control_step == number
            assert float(failure.params["dof_damping"][1]) == DRIVING
            assert failure.causes and all("huge" in cause for cause in failure.causes)
            checked += 1
            shorter += len(seen[failure.simulation]) < steps
    assert checked >= 5
    assert (shorter > 0) == (steps == 1000), "the shorter ring is full, the longer one never"
    assert env.num_diverged == checked


def test_recording_changes_nothing_and_stops_at_its_limit() -> None:
    env, plain = recorded_env(Explosive(share=1.0), 5, 20, limit=3), VecEnv(Explosive(share=1.0), 5, 4, 1)
    plain.reset()
    for _, action in zip(range(150), random_actions(env), strict=False):
        step, expected = env.step(action), plain.step(action)
        assert torch.equal(step.obs["policy"], expected.obs["policy"])
        assert torch.equal(step.valid, expected.valid)
    np.testing.assert_array_equal(env.sim.batch.state, plain.sim.batch.state)
    assert env.num_diverged > 5
    assert len(env.recorder.take()) == 3 and env.recorder.take() == []


def test_a_recorder_of_no_steps_is_refused() -> None:
    env = VecEnv(Cartpole(), 1)
    with pytest.raises(UsageError, match="at least 1 step, got 0"):
        FailureRecorder(env.sim, env.substeps, 1, 0, 10)
    with pytest.raises(UsageError, match="failure_recording_steps must be at least 0, got -1"):
        compose(["task=cartpole_balance", "algorithm=ppo", "failure_recording_steps=-1"])


def test_every_task_runs_without_a_warning() -> None:
    """A singular inertia matrix counts as a failure, too: no shipped task may have one."""
    for name in ("lqr_lqr_6_2", "manipulator_bring_ball", "fish_swim", "swimmer_swimmer15", "Pusher-v5"):
        env = VecEnv(compose_task(name, {}), 2, seed=1, num_threads=1)
        env.reset()
        for _, action in zip(range(10), random_actions(env), strict=False):
            assert env.step(action).valid.all(), name
