"""BatchSim against a plain loop over MjData, its continuation, its failure flags, its live views."""

from __future__ import annotations

import math
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.paths import ASSETS
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.sim import Stage

N = 5
STAGES = [Stage.NONE, Stage.VELOCITY]


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return mujoco.MjSpec.from_file(str(ASSETS / "control_suite" / "hopper.xml")).compile()


def scattered(model: mujoco.MjModel, num_envs: int = N, threads: int = 1, **options: Stage) -> BatchSim:
    """N hoppers in different poses above the floor, about to fall."""
    sim = BatchSim(model, num_envs, threads, **options)
    noise = np.random.default_rng(0).standard_normal((num_envs, model.nq))
    sim.data("qpos").add_(torch.from_numpy(0.1 * noise))
    sim.forward()
    return sim


def actions(model: mujoco.MjModel, steps: int, num_envs: int = N, seed: int = 1) -> torch.Tensor:
    draws = np.random.default_rng(seed).uniform(-1, 1, (steps, num_envs, model.nu))
    return torch.from_numpy(draws)


@pytest.mark.parametrize("stage", STAGES)
def test_same_bits_as_a_loop_over_mjdata(model: mujoco.MjModel, stage: Stage) -> None:
    sim = scattered(model, stage=stage)
    xpos, sensors = sim.data("xpos"), sim.data("sensordata")
    loop = [mujoco.MjData(model) for _ in range(N)]
    for row, data in enumerate(loop):
        data.qpos[:] = sim.data("qpos")[row].numpy()
        mujoco.mj_forward(model, data)
    for ctrl in actions(model, 80):
        sim.step(ctrl, substeps=4)
        for row, data in enumerate(loop):
            data.ctrl[:] = ctrl[row].numpy()
            mujoco.mj_step(model, data, 4)
            fresh = data
            if stage is Stage.VELOCITY:
                fresh = mujoco.MjData(model)
                fresh.qpos[:], fresh.qvel[:] = data.qpos, data.qvel
                mujoco.mj_step1(model, fresh)
            np.testing.assert_array_equal(sim.data("qpos")[row].numpy(), data.qpos)
            np.testing.assert_array_equal(sim.data("qvel")[row].numpy(), data.qvel)
            np.testing.assert_array_equal(xpos[row].numpy(), fresh.xpos)
            # velocity sensor fresh or lagging with the stage, touch sensors always of the last substep
            np.testing.assert_array_equal(sensors[row, :3].numpy(), fresh.sensordata[:3])
            np.testing.assert_array_equal(sensors[row, 3:].numpy(), data.sensordata[3:])
    assert (sensors[:, 3:] > 0).any(), "some foot must have touched the floor"


def test_any_number_of_threads_gives_the_same_bits(model: mujoco.MjModel) -> None:
    runs = []
    for threads in (1, 2, 7):
        sim = scattered(model, num_envs=16, threads=threads)
        for ctrl in actions(model, 50, num_envs=16):
            sim.step(ctrl, substeps=4)
        runs.append(sim.batch.state.copy())
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])


@pytest.mark.parametrize("stage", STAGES)
def test_state_dict_continues_bit_for_bit(model: mujoco.MjModel, stage: Stage) -> None:
    def randomised() -> BatchSim:
        sim = scattered(model, stage=stage)
        sim.param("body_mass")[:, 1:] *= torch.linspace(0.8, 1.3, N).double().unsqueeze(1)
        sim.param("opt.gravity")[:, 2] = torch.linspace(-12, -8, N).double()
        sim.refresh_constants()
        sim.forward()
        sim.data("sensordata"), sim.named("body", "foot").xipos
        return sim

    whole, first = randomised(), randomised()
    ctrls = actions(model, 60)
    for ctrl in ctrls[:40]:
        whole.step(ctrl, substeps=4)
        first.step(ctrl, substeps=4)
    saved = first.state_dict()
    for ctrl in ctrls[40:]:  # the saved state must not change with the simulation it came from
        first.step(ctrl, substeps=4)
    second = BatchSim(model, N, 2, stage)
    second.load_state_dict(saved)
    for field in ("sensordata", "xipos"):
        assert torch.equal(second.data(field), whole.data(field)), field
    for ctrl in ctrls[40:]:
        whole.step(ctrl, substeps=4)
        second.step(ctrl, substeps=4)
        np.testing.assert_array_equal(second.batch.state, whole.batch.state)
        assert torch.equal(second.data("sensordata"), whole.data("sensordata"))
        # bound before the interruption in one, after it in the other
        assert torch.equal(second.named("body", "torso").xmat, whole.named("body", "torso").xmat)
    assert torch.equal(second.param("body_subtreemass"), whole.param("body_subtreemass"))
    assert not np.array_equal(scattered(model).batch.state, whole.batch.state)


def test_loading_takes_back_fields_expanded_since(model: mujoco.MjModel) -> None:
    sim = scattered(model)
    saved = sim.state_dict()
    sim.param("body_mass")[:] = 50.0
    sim.param("opt.timestep")[:] = 0.001
    sim.load_state_dict(saved)
    reference = scattered(model)
    for ctrl in actions(model, 10):
        sim.step(ctrl, substeps=4)
        reference.step(ctrl, substeps=4)
    np.testing.assert_array_equal(sim.batch.state, reference.batch.state)


def test_state_of_another_number_of_simulations_is_refused(model: mujoco.MjModel) -> None:
    with pytest.raises(RobotrlError, match="same model and num_envs"):
        BatchSim(model, N + 1, 1).load_state_dict(scattered(model).state_dict())


def test_saved_failures_are_still_reported(model: mujoco.MjModel) -> None:
    sim = scattered(model)
    sim.data("qpos")[2, 1] = math.nan
    sim.step()
    other = BatchSim(model, N, 1)
    other.load_state_dict(sim.state_dict())
    assert other.failed().tolist() == sim.failed().tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("stage", STAGES)
def test_reset_of_some_leaves_the_others_bits_alone(model: mujoco.MjModel, stage: Stage) -> None:
    sim, reference = scattered(model, stage=stage), scattered(model, stage=stage)
    ids, others = torch.tensor([1, 4]), [0, 2, 3]
    for step, ctrl in enumerate(actions(model, 40)):
        if step == 20:
            sim.reset(ids)
            assert torch.equal(
                sim.data("qpos")[ids], torch.zeros(2, model.nq).double() + torch.tensor(model.qpos0)
            )
            assert (sim.data("time")[ids] == 0).all() and (sim.data("ctrl")[ids] == 0).all()
            sim.data("qpos")[ids, 1] = 0.3
            sim.forward(ids)
        sim.step(ctrl, substeps=4)
        reference.step(ctrl, substeps=4)
    np.testing.assert_array_equal(sim.batch.state[others], reference.batch.state[others])
    assert torch.equal(sim.data("xpos")[others], reference.data("xpos")[others])
    assert not np.array_equal(sim.batch.state[ids], reference.batch.state[ids])


def test_step_of_some_leaves_the_others_alone(model: mujoco.MjModel) -> None:
    sim = scattered(model)
    before = sim.batch.state.copy()
    sim.step(substeps=3, ids=torch.tensor([0, 3]))
    np.testing.assert_array_equal(sim.batch.state[[1, 2, 4]], before[[1, 2, 4]])
    np.testing.assert_allclose(sim.data("time").numpy(), [0.015, 0, 0, 0.015, 0], atol=1e-12)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("field", "value"), [("qpos", math.nan), ("qvel", 1e200), ("qvel", -math.inf)])
def test_a_diverged_simulation_is_flagged_alone_and_once(
    model: mujoco.MjModel, stage: Stage, field: str, value: float
) -> None:
    sim, reference = scattered(model, stage=stage), scattered(model, stage=stage)
    for ctrl in actions(model, 3):
        sim.step(ctrl, substeps=4)
        reference.step(ctrl, substeps=4)
    assert sim.failed() is None
    for _ in range(2):  # the second time MuJoCo's own counter stands where it stood
        sim.data(field)[3, 2] = value
        for advance in (sim, reference):
            advance.step(actions(model, 1)[0], substeps=4)
        assert sim.failed().tolist() == [False, False, False, True, False]
        assert sim.failed() is None
        sim.reset(torch.tensor([3]))
        sim.forward(torch.tensor([3]))
        for advance in (sim, reference):
            advance.step(actions(model, 1)[0], substeps=4)
        assert sim.failed() is None
    assert torch.isfinite(sim.data("qpos")).all()
    np.testing.assert_array_equal(sim.batch.state[[0, 1, 2, 4]], reference.batch.state[[0, 1, 2, 4]])


def test_non_finite_ctrl_is_a_failure(model: mujoco.MjModel) -> None:
    sim = scattered(model)
    ctrl = actions(model, 1)[0]
    ctrl[1, 0] = math.nan
    sim.step(ctrl)
    assert sim.failed().tolist() == [False, True, False, False, False]


def test_mujocos_warnings_go_to_logging_not_to_a_file(
    model: mujoco.MjModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    sim = scattered(model, num_envs=8, threads=2)
    sim.data("qpos")[:] = math.nan
    with caplog.at_level("INFO", logger="mujoco"):
        sim.step()
    assert len(caplog.records) == 8 and "QPOS" in caplog.text
    assert not list(tmp_path.iterdir())


def test_reset_forgets_a_failure(model: mujoco.MjModel) -> None:
    sim = scattered(model)
    sim.data("qpos")[0, 0] = math.nan
    sim.step()
    sim.reset(torch.tensor([0]))
    assert sim.failed() is None


def test_writes_between_steps_reach_the_physics(model: mujoco.MjModel) -> None:
    """A persistent batch continues from stages computed before the write."""
    sim, plain = scattered(model, stage=Stage.VELOCITY), scattered(model, stage=Stage.NONE)
    ctrls = actions(model, 6)
    writes = [
        lambda s: s.data("qpos")[1].add_(0.05),
        lambda s: s.data("qvel")[2, 0].add_(2.0),
        lambda s: s.data("xfrc_applied")[3, 1, 2].fill_(40.0),
        lambda s: s.param("body_pos")[0, 3, 2].add_(-0.02),
        lambda s: (s.param("body_mass")[4].mul_(1.5), s.refresh_constants(torch.tensor([4]))),
        lambda s: s.param("opt.gravity")[2, 2].fill_(-3.0),
    ]
    for ctrl, write in zip(ctrls, writes, strict=True):
        for each in (sim, plain):
            write(each)
            each.step(ctrl, substeps=4)
        np.testing.assert_array_equal(sim.batch.state, plain.batch.state)
    untouched = scattered(model)
    for ctrl in ctrls:
        untouched.step(ctrl, substeps=4)
    assert not (untouched.batch.state == sim.batch.state).all(axis=1).any(), "every row was written to"


@pytest.mark.parametrize("stage", STAGES)
def test_outputs_bound_late_are_right_and_disturb_nothing(model: mujoco.MjModel, stage: Stage) -> None:
    late, early = scattered(model, stage=stage), scattered(model, stage=stage)
    early.data("xpos"), early.data("sensordata"), early.data("cinert")
    late.data("xpos")
    for step, ctrl in enumerate(actions(model, 60)):
        late.step(ctrl, substeps=4)
        early.step(ctrl, substeps=4)
        if step == 40:
            before = late.data("xpos").clone()
            inertia = late.data("cinert").clone()
            touch = late.named("sensor", "touch_toe").data
            shown = early
            if stage is Stage.NONE:  # the state as it is, not as it was one substep ago
                shown = scattered(model, stage=stage)
                shown.batch.state[...] = late.batch.state
                shown.forward()
            assert torch.equal(inertia, shown.data("cinert"))
            assert torch.equal(touch, shown.named("sensor", "touch_toe").data)
            assert torch.equal(late.data("xpos"), before)
            assert touch.abs().max() > 0 and inertia.abs().max() > 0
        if step > 40:
            assert torch.equal(late.data("cinert"), early.data("cinert"))
            assert torch.equal(late.data("sensordata"), early.data("sensordata"))
    np.testing.assert_array_equal(late.batch.state, early.batch.state)


def test_views_are_live(model: mujoco.MjModel) -> None:
    sim = scattered(model)
    knee, torso = sim.named("joint", "knee"), sim.named("body", "torso")
    angle, height = knee.qpos, torso.xpos
    address = int(model.joint("knee").qposadr[0])
    sim.data("qpos")[:, address] = 1.25
    assert angle.shape == (N, 1) and (angle == 1.25).all()
    angle[2] = 0.5
    assert sim.data("qpos")[2, address] == 0.5
    before = height.clone()
    sim.step(substeps=50)
    assert torch.equal(height, sim.data("xpos")[:, torso.id]) and not torch.equal(height, before)
    # model attributes follow once the field differs between simulations
    assert (torso.mass == float(model.body("torso").mass[0])).all()
    sim.param("body_mass")[3, torso.id] = 7.0
    assert torso.mass[3] == 7.0 and torso.mass[2] != 7.0
    assert sim.named("joint", "knee") is knee


def test_refresh_constants_follows_the_masses(model: mujoco.MjModel) -> None:
    sim = scattered(model)
    sim.param("body_mass")[2] *= 2
    sim.refresh_constants(torch.tensor([2]))
    total = sim.param("body_subtreemass")[:, 0]
    assert total[2] == pytest.approx(2 * float(model.body_subtreemass[0]))
    assert total[1] == float(model.body_subtreemass[0])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda s: s.data("qposs"), "qposs.*did you mean 'qpos'"),
        (lambda s: s.data("body_mass"), r"MjModel field: use param\('body_mass'\)"),
        (lambda s: s.data("efc_force"), "cannot be bound"),
        (lambda s: s.param("body_mas"), "did you mean 'body_mass'"),
        (lambda s: s.param("qpos"), r"MjData field: use data\('qpos'\)"),
        (lambda s: s.param("gravity"), "opt.gravity"),
        (lambda s: s.param("tex_data"), "cannot be expanded"),
        (lambda s: s.named("joint", "kne"), "unknown joint 'kne'.*did you mean 'knee'"),
        (lambda s: s.named("jont", "knee"), "did you mean 'joint'"),
        (lambda s: s.named("joint", "knee").qposs, "'knee'.*did you mean 'qpos'"),
        (lambda s: BatchSim(s.model, 0), "num_envs must be at least 1, got 0"),
        (lambda s: BatchSim(s.model, 1, 0), "num_threads must be at least 1, got 0"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(model, request_, message) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        request_(BatchSim(model, 2, 1))
    assert "\n" not in str(caught.value)
