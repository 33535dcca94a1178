"""Manipulator and stacker against dm_control's own; the law of their starts, drawn until nothing touches."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import mujoco
import numpy as np
import pytest
import torch
from dm_control_parity import (
    TOLERANCE,
    check_steps,
    copy_state,
    flat,
    load_original,
    make_task,
    observed,
    total,
)
from scipy import stats

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.paths import CONFIGS
from robotrl.envs.dm_control_compat import load_suite
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.batch_sim import BatchSim
from robotrl.tasks.control_suite import randomizers
from robotrl.tasks.control_suite.manipulator import BringBall
from robotrl.tasks.control_suite.stacker import Stack

BRING = {
    "manipulator_bring_ball": ("manipulator", "bring_ball"),
    "manipulator_bring_peg": ("manipulator", "bring_peg"),
    "manipulator_insert_ball": ("manipulator", "insert_ball"),
    "manipulator_insert_peg": ("manipulator", "insert_peg"),
}
STACK = {"stacker_stack_2": ("stacker", "stack_2"), "stacker_stack_4": ("stacker", "stack_4")}
TASKS = BRING | STACK


@pytest.mark.parametrize("name", TASKS)
def test_same_observations_and_rewards_as_dm_control(name: str) -> None:
    check_steps(name, *TASKS[name], num_envs=2)


@pytest.mark.parametrize("name", ["manipulator_bring_ball", "manipulator_bring_peg"])
def test_a_closing_hand_feels_the_object_as_dm_controls(name: str) -> None:
    env = VecEnv(make_task(name), 60, seed=1, num_threads=2)
    env.reset()
    starts = own_starts(env)
    row = int(np.flatnonzero(kinds(starts) == IN_HAND)[0])
    original = load_original(*TASKS[name])
    original.reset()
    copy_state(env.sim, row, original.physics)
    action = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])
    gripped = 0
    for _ in range(60):
        env.step(action.expand(60, -1))
        theirs = original.step(action.double().numpy())
        ours = observed(env.task, env.sim)[row]
        np.testing.assert_allclose(ours, flat(theirs.observation), rtol=0, atol=TOLERANCE)
        gripped += int((env.sim.data("sensordata")[row, 1:] > 0.1).sum() >= 2)
    assert gripped > 10, "both sides of the hand must have pressed on the object"


@pytest.mark.parametrize("name", TASKS)
def test_same_rewards_where_they_are_paid(name: str) -> None:
    env = VecEnv(make_task(name), 200, seed=5, num_threads=2)
    env.reset()
    sim, rng = env.sim, torch.Generator().manual_seed(1)
    half = torch.arange(200) < 100
    grasp = sim.named("site", "grasp").xpos.clone()
    if name in BRING:
        target = sim.named("body", env.task.target_name)
        angle = 2 * torch.atan2(target.xquat[:, 2], target.xquat[:, 0])
        at_target = torch.stack((target.xpos[:, 0], target.xpos[:, 2], angle), dim=1)
        at_hand = env.task.grasp_pose(sim)
        noise = torch.tensor([0.01, 0.01, 0.1]) * torch.randn(200, 3, generator=rng)
        sim.data("qpos")[:, 8:] = torch.where(half.unsqueeze(1), at_target, at_hand) + noise
    else:
        offset = torch.randn(200, 3, generator=rng).double() * torch.tensor([1.0, 0.0, 1.0])
        offset *= (0.06 + 0.08 * torch.rand(200, 1, generator=rng)) / offset.norm(dim=1, keepdim=True)
        place = grasp + offset
        sim.param("body_pos")[:, sim.named("body", "target").id] = place
        box = torch.where(half, 8, 11).unsqueeze(1) + torch.arange(2)
        sim.data("qpos").scatter_(1, box, place[:, ::2] + 0.02 * torch.randn(200, 2, generator=rng))
    sim.forward()
    action = torch.zeros(200, env.specs.action_dim, dtype=torch.float64)
    rewards = total(env.task.reward_terms(sim, action))
    original = load_original(*TASKS[name])
    original.reset()
    theirs = np.empty(200)
    for row in range(200):
        copy_state(sim, row, original.physics)
        theirs[row] = original.task.get_reward(original.physics)
    np.testing.assert_allclose(rewards, theirs, rtol=0, atol=1e-12)
    assert theirs.min() < 0.3 and theirs.max() > 0.7, "the states must tell rewards apart"
    if "peg" in name:
        assert 0.2 < np.median(theirs[100:]) <= 1 / 3 + 1e-12, "holding the peg is paid with a third"


@pytest.mark.parametrize("name", TASKS)
def test_same_interface_and_time_limit_as_dm_control(name: str) -> None:
    env = VecEnv(make_task(name), 2, num_threads=1)
    original = load_original(*TASKS[name])
    assert env.max_steps == original._step_limit
    assert env.specs.control_dt_s == pytest.approx(original.control_timestep(), abs=1e-12)
    np.testing.assert_array_equal(original.action_spec().minimum, env.specs.action_low)
    np.testing.assert_array_equal(original.action_spec().maximum, env.specs.action_high)
    first = env.reset()["policy"]
    assert first.shape == (2, len(flat(original.reset().observation)))
    env.age[0] = env.max_steps - 2
    action = torch.zeros(2, env.specs.action_dim)
    assert not env.step(action).done.any()
    step = env.step(action)
    assert step.truncated.tolist() == [True, False]
    assert not step.terminated.any()
    assert env.step(action).done.tolist() == [False, False]


@pytest.mark.parametrize("name", TASKS)
def test_the_models_are_dm_controls(name: str) -> None:
    ours = make_task(name).build_model()
    # fresh: an episode moves the target in the model
    theirs = load_suite().load(*TASKS[name]).physics.model.ptr
    compared = 0
    for field in dir(ours):
        value = getattr(ours, field)
        if field.startswith("_") or not isinstance(value, int | float | bytes | np.ndarray):
            continue
        compared += 1
        np.testing.assert_array_equal(value, getattr(theirs, field), err_msg=field)
    assert compared > 400
    assert ours.opt.timestep == theirs.opt.timestep and int(ours.opt.cone) == int(theirs.opt.cone)


RESETS = 500
IN_HAND, IN_TARGET, THROWN = 0, 1, 2


@dataclass
class Starts:
    """First states of many episodes: (n, ...) arrays, `grasp` the middle of the hand."""

    qpos: np.ndarray
    qvel: np.ndarray
    body_pos: np.ndarray
    body_quat: np.ndarray
    grasp: np.ndarray
    target: int

    def target_pose(self) -> np.ndarray:
        """(n, 3) x, z, angle."""
        pos, quat = self.body_pos[:, self.target], self.body_quat[:, self.target]
        return np.stack((pos[:, 0], pos[:, 2], 2 * np.arctan2(quat[:, 2], quat[:, 0])), axis=1)


def target_of(model: mujoco.MjModel) -> int:
    return next(i for i in range(model.nbody) if model.body(i).name.startswith("target"))


def own_starts(env: VecEnv) -> Starts:
    sim = env.sim
    body_quat = torch.as_tensor(sim.model.body_quat).expand(env.num_envs, -1, -1)
    if "body_quat" in sim.expanded():
        body_quat = sim.param("body_quat")
    fields = [
        sim.data("qpos"),
        sim.data("qvel"),
        sim.param("body_pos"),
        body_quat,
        sim.named("site", "grasp").xpos,
    ]
    return Starts(*(field.numpy().copy() for field in fields), target_of(sim.model))


def kinds(starts: Starts) -> np.ndarray:
    """(n,) where the manipulator's object starts."""
    pose = starts.qpos[:, 8:11]
    in_target = np.abs(pose - starts.target_pose()).max(axis=1) < 1e-9
    in_hand = np.abs(pose[:, :2] - starts.grasp[:, ::2]).max(axis=1) < 1e-9
    return np.where(in_target, IN_TARGET, np.where(in_hand, IN_HAND, THROWN))


@functools.cache
def both_starts(name: str) -> tuple[Starts, Starts]:
    env = VecEnv(make_task(name), RESETS, seed=11, num_threads=2)
    env.reset()
    assert (env.sim.data("ncon") == 0).all()
    # a copy of its own: its draws must not depend on which tests ran before
    original = load_original(*TASKS[name], 7)
    physics = original.physics
    rows = []
    for _ in range(RESETS):
        original.reset()
        grasp = physics.named.data.site_xpos["grasp"]
        fields = (
            physics.data.qpos,
            physics.data.qvel,
            physics.model.body_pos,
            physics.model.body_quat,
            grasp,
        )
        rows.append([np.array(field) for field in fields])
    theirs = (np.array(field) for field in zip(*rows, strict=True))
    return own_starts(env), Starts(*theirs, target_of(physics.model.ptr))


def same_frequencies(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Refuse two samples of small integers that are unlikely to have one law."""
    counts = np.array([np.bincount(sample, minlength=8) for sample in (ours, theirs)])
    counts = counts[:, counts.sum(axis=0) > 0]
    assert stats.chi2_contingency(counts).pvalue > 1e-3, counts


@pytest.mark.parametrize("name", TASKS)
def test_starts_are_distributed_as_dm_controls(name: str) -> None:
    ours, theirs = both_starts(name)
    columns = 0
    for field in ("qpos", "qvel", "body_pos", "body_quat", "grasp"):
        pairs = zip(*(getattr(s, field).reshape(RESETS, -1).T for s in (ours, theirs)), strict=True)
        for mine, reference in pairs:
            if np.ptp(reference) < 1e-9:
                np.testing.assert_allclose(mine, reference, atol=1e-9)
                continue
            columns += 1
            assert stats.ks_2samp(mine, reference).pvalue > 1e-3, field
    assert columns >= 15
    np.testing.assert_array_equal(ours.qpos[:, 6], ours.qpos[:, 4])


@pytest.mark.parametrize("name", BRING)
def test_objects_start_in_hand_in_target_and_thrown_as_often_as_dm_controls(name: str) -> None:
    ours, theirs = both_starts(name)
    # a rejected throw leaves its velocity to an object in the hand or in the target
    mine, reference = (2 * kinds(s) + (s.qvel[:, 8] != 0) for s in (ours, theirs))
    same_frequencies(mine, reference)
    assert len(np.unique(reference)) >= 3
    assert (ours.qvel[kinds(ours) == THROWN, 8] != 0).all()
    if "insert" in name:
        moved = [i for i in range(ours.body_pos.shape[1]) if np.ptp(ours.body_pos[:, i, 0]) > 0]
        assert len(moved) == 2
        receptacle = next(i for i in moved if i != ours.target)
        xz = ours.body_pos[:, [receptacle, ours.target]][..., ::2]
        np.testing.assert_array_equal(xz[:, 0], xz[:, 1])
        np.testing.assert_array_equal(ours.body_quat[:, receptacle], ours.body_quat[:, ours.target])


@pytest.mark.parametrize("name", STACK)
def test_targets_lie_at_every_height_of_the_stack(name: str) -> None:
    ours, theirs = both_starts(name)
    mine, reference = (((s.target_pose()[:, 1] / 0.022 - 1) / 2).round().astype(int) for s in (ours, theirs))
    same_frequencies(mine, reference)
    assert set(mine) == set(range(make_task(name).num_boxes))
    assert (ours.qvel == 0).all()


@pytest.mark.parametrize("name", ["manipulator_bring_peg", "manipulator_insert_ball"])
def test_draws_before_rejection_have_the_stated_law(name: str) -> None:
    task = make_task(name)
    model = task.build_model()
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    env = VecEnv(task, 2, num_threads=2)
    env.sim = BatchSim(model, 4000, 2)
    env.num_envs = 4000
    task.reset(env.sim, torch.arange(4000), torch.Generator().manual_seed(3))
    env.sim.forward()
    starts = own_starts(env)
    kind = kinds(starts)
    for value, probability in ((IN_HAND, 0.1), (IN_TARGET, 0.1), (THROWN, 0.8)):
        assert stats.binomtest(int((kind == value).sum()), 4000, probability).pvalue > 1e-3
    angle = math.pi / 3 if "insert" in name else math.pi
    thrown = kind == THROWN
    samples = [
        (starts.target_pose(), [(-0.4, 0.4), (0.1, 0.4), (-angle, angle)]),
        (starts.qpos[thrown, 8:], [(-0.5, 0.5), (0.0, 0.7), (0.0, 2 * math.pi)]),
        (starts.qvel[thrown, 8:9], [(-5.0, 5.0)]),
        (starts.qpos[:, :1], [(-math.pi, math.pi)]),
    ]
    for sample, ranges in samples:
        for column, (low, high) in zip(sample.T, ranges, strict=True):
            assert stats.kstest(column, "uniform", (low, high - low)).pvalue > 1e-3
    assert (starts.qvel[~thrown] == 0).all()
    if "peg" in name:
        peg, hand = (env.sim.named("site", site).xpos.numpy() for site in ("peg_pinch", "pinch"))
        held = kind == IN_HAND
        np.testing.assert_allclose(
            peg[held], hand[held], atol=1e-12, err_msg="a held peg lies along the hand"
        )


@pytest.mark.parametrize("name", ["manipulator_insert_peg", "stacker_stack_4"])
def test_reset_leaves_the_others_and_the_constants_of_the_dynamics_alone(name: str) -> None:
    env = VecEnv(make_task(name), 6, seed=0, num_threads=2)
    env.reset()
    before, state = own_starts(env), env.sim.batch.state.copy()
    env._reset(torch.tensor([1, 4]))
    after, others = own_starts(env), [0, 2, 3, 5]
    np.testing.assert_array_equal(env.sim.batch.state[others], state[others])
    np.testing.assert_array_equal(after.body_pos[others], before.body_pos[others])
    np.testing.assert_array_equal(after.body_quat[others], before.body_quat[others])
    assert (after.target_pose()[[1, 4], 0] != before.target_pose()[[1, 4], 0]).all()
    env.sim.refresh_constants()
    for field, values in env.sim.expanded().items():
        # cameras and lights that follow a centre of mass would count the target in; none does
        if field not in ("body_pos", "body_quat") and not field.startswith(("cam_", "light_")):
            shared = np.broadcast_to(getattr(env.sim.model, field), values.shape)
            np.testing.assert_allclose(values.numpy(), shared, rtol=1e-12, atol=1e-12, err_msg=field)


@pytest.mark.parametrize("name", TASKS)
def test_reset_depends_on_the_seed_alone(name: str) -> None:
    envs = [VecEnv(make_task(name), 3, seed, num_threads=1) for seed in (4, 4, 5)]
    a, b, c = (env.reset()["policy"] for env in envs)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_model_without_room_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Buried(BringBall):
        """An arm inside a rock."""

        def edit_spec(self, spec: mujoco.MjSpec) -> None:
            super().edit_spec(spec)
            spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[2.0, 0.0, 0.0])

    monkeypatch.setattr(randomizers, "MAX_ROUNDS", 5)
    with pytest.raises(RobotrlError, match="without contacts in 5 draws of 3 simulations"):
        VecEnv(Buried(), 3, num_threads=1).reset()


@pytest.mark.parametrize("number", [0, 5, -1])
def test_impossible_numbers_of_boxes_are_refused(number: int) -> None:
    with pytest.raises(UsageError, match=f"num_boxes must be 1 to 4, got {number}"):
        Stack(num_boxes=number)


def test_every_task_file_starts_with_its_description() -> None:
    for name in TASKS:
        first, second = (CONFIGS / "task" / f"{name}.yaml").read_text().splitlines()[:2]
        assert first.startswith("# ") and len(first) > 20
        assert second.startswith("_target_: robotrl.tasks.control_suite.")
