"""WarpSim against BatchSim on Warp's CPU device: trajectories, randomisation, failures, continuation.

The first run on a machine compiles kernels for minutes; later ones find them in Warp's cache.
"""

from __future__ import annotations

import copy
import functools
import logging
import math

import mujoco
import pytest
import torch

from robotrl.compose import compose
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.paths import ASSETS
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.disturbances import Kick, Push
from robotrl.sim.draws import When
from robotrl.sim.height_fields import TerrainDraws, fill, replace_floor
from robotrl.sim.latency import Delay
from robotrl.sim.randomization import FieldRandomization
from robotrl.sim.rendering import Renderer
from robotrl.sim.sim import Stage
from robotrl.sim.terrain import Kind, Shape, Terrain
from robotrl.tasks.control_suite.cartpole import Cartpole
from robotrl.tasks.control_suite.cheetah import Cheetah
from robotrl.tasks.control_suite.reacher import Reacher
from robotrl.tasks.control_suite.walker import Walker
from robotrl.tasks.realism import ObservationNoise, Realism
from robotrl.tasks.task import Task
from robotrl.training import train as training

pytest.importorskip("mujoco_warp", reason='needs pip install "robotrl[warp]"')

from robotrl.sim.warp_sim import WarpSim

N = 3
ON_CPU = functools.partial(WarpSim, device="cpu")
STATE = ("qpos", "qvel", "qacc_warmstart")


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return Cheetah().build_model()


def pair(model: mujoco.MjModel, stage: Stage = Stage.VELOCITY) -> tuple[BatchSim, WarpSim]:
    """N cheetahs in the same different poses, falling, on both backends."""
    exact, warp = BatchSim(model, N, 1, stage), ON_CPU(model, N, stage=stage)
    poses = 0.1 * torch.randn(N, model.nq, generator=torch.Generator().manual_seed(0)).float()
    for sim in (exact, warp):
        sim.data("qpos").add_(poses)
        sim.forward()
    return exact, warp


def controls(model: mujoco.MjModel, steps: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return 2.0 * torch.rand(steps, N, model.nu, dtype=torch.float64, generator=rng) - 1.0


def close(warp: torch.Tensor, exact: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(warp.double(), exact.double(), rtol=tolerance, atol=tolerance)


# chaos makes a walker's float32 error grow along its fall
@pytest.mark.parametrize(
    ("task", "after_1", "after_50"),
    [(Cartpole(), 1e-6, 1e-5), (Cheetah(), 1e-4, 1e-3), (Walker(), 1e-4, 3e-2)],
    ids=["cartpole", "cheetah", "walker"],
)
def test_environments_agree(task: Task, after_1: float, after_50: float) -> None:
    exact, warp = VecEnv(task, N, num_threads=1), VecEnv(task, N, make_sim=ON_CPU)
    first = exact.reset()["policy"]
    close(warp.reset()["policy"], first, 1e-4)
    for name in STATE:
        warp.sim.data(name)[:] = exact.sim.data(name)
    warp.sim.forward()
    for i, action in enumerate(controls(exact.sim.model, 50)):
        expected, step = exact.step(action), warp.step(action)
        if i in (0, 49):
            tolerance = after_1 if i == 0 else after_50
            close(step.obs["policy"], expected.obs["policy"], tolerance)
            close(step.reward, expected.reward, tolerance)
    assert step.obs["policy"].dtype == step.reward.dtype == torch.float32
    assert bool(step.valid.all())


def test_episodes_end_and_start_anew_in_the_same_way() -> None:
    task = Cheetah(episode_length_s=0.02)
    exact, warp = VecEnv(task, N, num_threads=1, stagger=True), VecEnv(task, N, stagger=True, make_sim=ON_CPU)
    exact.reset(), warp.reset()
    for action in controls(exact.sim.model, 3):
        expected, step = exact.step(action), warp.step(action)
        assert torch.equal(step.truncated, expected.truncated) and not bool(step.terminated.any())
        close(step.obs["policy"], expected.obs["policy"], 1e-3)
        close(step.final_obs["policy"], expected.final_obs["policy"], 1e-3)


def test_every_part_of_realism_acts_as_on_the_cpu() -> None:
    realism = Realism(
        randomize={
            "mass": FieldRandomization("body_mass", (0.5, 2.0)),
            "friction": FieldRandomization("geom_friction", (0.5, 1.0), columns=[0]),
            "gravity": FieldRandomization(
                "opt.gravity", (0.8, 1.2), when=When.INTERVAL, interval_s=(0.01, 0.02)
            ),
        },
        actuator_delays={"all": Delay((0.0, 0.02))},
        sensor_delays={"speed": Delay((0.01, 0.02))},
        pushes={"torso": Push("torso", (0.01, 0.02), force_n=(50.0, 100.0), duration_s=0.02)},
        kicks={"legs": Kick((-0.5, 0.5), (0.01, 0.03), names=".*thigh")},
        observation_noise={"all": ObservationNoise(std=0.01, bias=(-0.1, 0.1), dropout=0.1)},
        action_noise=0.05,
        history={"policy": 2},
    )
    exact = VecEnv(Cheetah(realism=realism), N, num_threads=1)
    warp = VecEnv(Cheetah(realism=realism), N, make_sim=ON_CPU)
    close(warp.reset()["policy"], exact.reset()["policy"], 1e-3)
    for action in controls(exact.sim.model, 10):
        expected, step = exact.step(action), warp.step(action)
        close(step.obs["policy"], expected.obs["policy"], 1e-2)
        close(step.reward, expected.reward, 1e-3)
    for field in ("body_mass", "geom_friction", "opt.gravity", "actuator_delay", "dof_invweight0"):
        close(warp.sim.param(field), exact.sim.param(field), 1e-5)


def test_randomised_rows_act_on_their_own_simulation_only(model: mujoco.MjModel) -> None:
    (exact, warp), (_, nominal) = pair(model), pair(model)
    for sim in (exact, warp):
        sim.param("body_mass")[2] *= 1.5
        sim.param("geom_friction")[2, :, 0] *= 0.3
        sim.refresh_constants(torch.tensor([2]))
    for ctrl in controls(model, 60):
        for sim in (exact, warp, nominal):
            sim.step(ctrl)
    close(warp.data("qpos"), exact.data("qpos"), 1e-4)
    assert torch.equal(warp.data("qpos")[:2], nominal.data("qpos")[:2])
    assert (warp.data("qpos")[2] - nominal.data("qpos")[2]).abs().max() > 1e-2
    close(warp.param("body_invweight0"), exact.param("body_invweight0"), 1e-4)
    assert warp.named("body", "torso").mass[2] == pytest.approx(1.5 * model.body("torso").mass[0])


@pytest.mark.parametrize("stage", list(Stage))
def test_derived_fields_are_as_fresh_as_on_the_cpu(model: mujoco.MjModel, stage: Stage) -> None:
    names = ("time", "qpos", "xpos", "xmat", "geom_xpos", "cvel", "subtree_com", "sensordata", "qfrc_bias")
    exact, warp = pair(model, stage)
    for name in names:  # a field lags from when it is first read
        exact.data(name)
    for ctrl in controls(model, 3):
        exact.step(ctrl, 2)
        warp.step(ctrl, 2)
    for name in names:
        assert warp.data(name).shape == exact.data(name).shape, name
        close(warp.data(name), exact.data(name), 1e-3)
    for kind, name, attribute in (
        ("body", "torso", "xmat"),
        ("joint", "bthigh", "qvel"),
        ("sensor", "torso_subtreelinvel", "data"),
        ("geom", "head", "size"),
    ):
        ours, theirs = (getattr(sim.named(kind, name), attribute) for sim in (warp, exact))
        assert ours.shape == theirs.shape
        close(ours, theirs, 1e-3)
    warp.named("joint", "bthigh").qpos[:] = torch.tensor([[0.25]], dtype=torch.float64)
    assert bool((warp.data("qpos")[:, 3] == 0.25).all())


def test_chosen_simulations_advance_alone_and_as_together(model: mujoco.MjModel) -> None:
    (_, some), (_, every) = pair(model), pair(model)
    before = {name: some.data(name).clone() for name in (*STATE, "xpos", "sensordata")}
    some.step(substeps=5, ids=torch.tensor([0, 2]))
    every.step(substeps=5)
    for name, old in before.items():
        assert torch.equal(some.data(name)[[0, 2]], every.data(name)[[0, 2]])
        assert torch.equal(some.data(name)[1], old[1])
    some.reset(torch.tensor([1]))
    some.forward(torch.tensor([1]))
    assert torch.equal(some.data("qpos")[1], torch.zeros(model.nq))
    assert torch.equal(some.data("xpos")[0], every.data("xpos")[0])
    assert some.data("time").tolist() == pytest.approx([5 * some.dt_s, 0.0, 5 * some.dt_s])


def test_geoms_of_the_world_move_with_their_simulation() -> None:
    task = Reacher()
    exact, warp = VecEnv(task, N, num_threads=1), VecEnv(task, N, make_sim=ON_CPU)
    close(warp.reset()["policy"], exact.reset()["policy"], 1e-5)
    for env in (exact, warp):
        env.sim.param("geom_pos")[1, env.sim.named("geom", "target").id, 0] = 0.1
        env.sim.step()
    close(warp.sim.data("geom_xpos"), exact.sim.data("geom_xpos"), 1e-5)


LOG = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 1"/>
    <body pos="1 0 1"><freejoint/><geom type="capsule" size="0.1 0.2" euler="90 0 0"/></body>
  </worldbody>
</mujoco>
"""


def test_simulations_rest_on_their_own_terrain() -> None:
    terrain = Terrain(
        {"up": Shape(Kind.STAIRS, (0.1, 0.3), (1.0, 1.0))}, levels=3, size_m=6.0, flat_radius_m=0.5
    )
    spec = mujoco.MjSpec.from_string(LOG)
    replace_floor(spec, terrain)
    model = spec.compile()
    fill(model, terrain)
    for sim in (BatchSim(model, N, 1), ON_CPU(model, N)):
        TerrainDraws(sim, terrain).reset(torch.arange(N), torch.Generator().manual_seed(1))
        level = sim.param("geom_dataid")[:, 0].cpu() - model.geom("floor").dataid
        assert sorted(level.tolist()) == [0, 1, 2]
        sim.step(substeps=300)
        # on the first step, of 0.1, 0.2 or 0.3 m
        close(sim.data("qpos")[:, 2], 0.2 + 0.1 * level, 2e-3)


def test_failures_are_named_and_forgotten(model: mujoco.MjModel) -> None:
    _, sim = pair(model)
    assert sim.failed() is None
    sim.data("qvel")[1, 0] = math.nan
    sim.data("qpos")[2, 0] = 1e11
    assert sim.failed().tolist() == [False, True, True]
    sim.step()
    assert sim.failed().tolist() == [False, True, True]
    sim.reset(torch.tensor([1, 2]))
    sim.step()
    assert sim.failed() is None


def test_too_many_contacts_fail(model: mujoco.MjModel, caplog: pytest.LogCaptureFixture) -> None:
    sim = ON_CPU(model, N, max_contacts=1)
    sim.data("qpos")[:, 1] = -0.6  # into the floor
    with caplog.at_level(logging.WARNING):
        sim.step()
        assert sim.failed().tolist() == [True] * N
    assert "1 contacts per simulation" in caplog.text and "max_contacts" in caplog.text
    sim.reset()
    sim.data("qpos")[:, 1] = 2.0
    sim.step()
    assert sim.failed() is None


def test_too_many_constraints_fail_alone(model: mujoco.MjModel) -> None:
    sim = ON_CPU(model, N, max_constraints=8)
    sim.data("qpos")[:, 1] = torch.tensor([2.0, -0.6, 2.0])
    sim.step()
    assert sim.failed().tolist() == [False, True, False]


def test_continues_bit_for_bit(model: mujoco.MjModel) -> None:
    _, sim = pair(model, Stage.NONE)
    sim.param("body_mass")[0] *= 1.2
    sim.refresh_constants()
    ctrl = controls(model, 10)
    for row in ctrl[:5]:
        sim.step(row)
    _, other = pair(model, Stage.NONE)
    other.param("geom_friction")[:] = 0.0  # not in the state: back to the model's
    xpos = sim.data("xpos").clone()
    other.load_state_dict(sim.state_dict())
    assert torch.equal(other.data("xpos"), xpos)
    for row in ctrl[5:]:
        sim.step(row)
        other.step(row)
    for name in (*STATE, "xpos"):
        assert torch.equal(other.data(name), sim.data(name))
    with pytest.raises(RobotrlError, match=r"shape \(3, 9\).*needs \(2, 9\)"):
        ON_CPU(model, 2).load_state_dict(sim.state_dict())


def test_training_continues_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_make_sim", lambda config: ON_CPU)
    words = ["task=cartpole_balance", "algorithm=ppo", "backend=warp", "num_envs=2", "total_steps=100"]
    short = [
        "task.episode_length_s=0.05",
        "algorithm.num_steps=4",
        "algorithm.hidden=[8]",
        "policy.hidden=[8]",
    ]
    noise = ["+task.realism.observation_noise.all.std=0.1", "+task.realism.randomize.mass.field=body_mass"]
    config = compose([*words, *short, *noise, "+task.realism.randomize.mass.range=[0.5,2]"])
    loop = training.make_loop(config)
    loop.iterate()
    state = copy.deepcopy(loop.state_dict())
    after = loop.iterate()
    resumed = training.make_loop(config)
    resumed.load_state_dict(state)
    assert resumed.iterate() == after
    assert torch.equal(resumed.obs["policy"], loop.obs["policy"])


def test_what_it_cannot_do_is_refused(model: mujoco.MjModel) -> None:
    sim = ON_CPU(model, 1)
    for call, message in (
        (lambda: sim.data("subtree_linvel"), "does not offer MjData field subtree_linvel"),
        (lambda: sim.data("qposs"), "did you mean 'qpos'"),
        (lambda: sim.param("body_parentid"), "body_parentid cannot differ between simulations"),
        (lambda: sim.param("opt.density"), "where the model has none of opt.density"),
        (lambda: sim.param("nope"), "nope is not an expandable MjModel field"),
        (lambda: sim.named("body", "torsoo"), "did you mean 'torso'"),
        (lambda: sim.named("joint", "bthigh").mass, "has no attribute 'mass'"),
        (lambda: Renderer(sim, 32, 32), "pictures need the cpu backend"),
        (lambda: ON_CPU(model, 0), "num_envs must be at least 1, got 0"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
    spec = mujoco.MjSpec.from_file(str(ASSETS / "control_suite" / "cheetah.xml"))
    spec.option.solver = mujoco.mjtSolver.mjSOL_PGS
    with pytest.raises(UsageError, match="mujoco-warp cannot simulate this model: mjSOL_PGS"):
        ON_CPU(spec.compile(), 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(model: mujoco.MjModel) -> None:
    with pytest.raises(UsageError, match="needs a CUDA GPU"):
        WarpSim(model, 1)
