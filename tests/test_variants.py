"""Simulations on models of several files: physics against plain MuJoCo, own fields, pictures, errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from robotrl.compose import compose, compose_task
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import ObsTerm
from robotrl.envs.vec_env import VecEnv
from robotrl.export.description import describe_task
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.guard import FailureRecorder
from robotrl.sim.latency import Delay
from robotrl.sim.randomization import FieldRandomization, Op
from robotrl.sim.rendering import Renderer
from robotrl.sim.terrain import Kind, Shape, Terrain
from robotrl.sim.variant_sim import VariantSim
from robotrl.tasks.realism import Realism
from robotrl.tasks.task import Task
from robotrl.training.failures import FailureRecording
from robotrl.training.replay import resimulate, simulation_of

XML = """
<mujoco>
  <option timestep="0.005"/>
  <asset><mesh name="thing" vertex="{vertices}"/><material name="thing" rgba="{rgba} 1"/></asset>
  <worldbody>
    <light pos="0 0 5"/>
    <geom name="ground" type="plane" size="3 3 0.1"/>
    <body name="thing" pos="0 0 0.3">
      <freejoint name="root"/>
      <geom name="thing" type="mesh" mesh="thing" material="thing" mass="{mass}"/>
      <body name="arm" pos="0.2 0 0">
        <joint name="arm" axis="0 1 0" damping="0.1"/><geom size="0.05" pos="0.2 0 0"/>
      </body>
    </body>
    <camera name="side" pos="0 -1.5 0.3" xyaxes="1 0 0 0 0 1"/>
    {more}
  </worldbody>
  <actuator><motor name="arm" joint="arm" gear="5" ctrllimited="true" ctrlrange="-1 1"/></actuator>
</mujoco>
"""
COLOURS = ("1 0 0", "0 1 0", "0 0 1")


@dataclass
class Thing(Task):
    """Something that an arm throws about."""

    mjcf: Path = Path()
    control_dt_s: float = 0.02
    episode_length_s: float = 0.4

    def observation_terms(self, model):
        return {"policy": (ObsTerm("height", 1, "m"), ObsTerm("arm", 1, "rad"))}

    def reset(self, sim, ids: Tensor, rng: torch.Generator) -> None:
        sim.data("qpos")[ids, 7] = torch.rand(len(ids), dtype=torch.float64, generator=rng)
        sim.forward(ids)

    def observe(self, sim):
        return {"policy": {"height": sim.data("qpos")[:, 2], "arm": sim.data("qpos")[:, 7]}}

    def reward_terms(self, sim, action: Tensor):
        return {"height": sim.data("qpos")[:, 2]}


def write(folder: Path, index: int, more: str = "", **changes) -> Path:
    """Write a file whose mesh has 8, 13 or 40 corners, so never as many faces as another one's."""
    corners = np.random.default_rng(index).normal(size=((8, 13, 40)[index % 3], 3))
    corners *= 0.1 / np.linalg.norm(corners, axis=1, keepdims=True)
    vertices = " ".join(f"{x:.6f}" for x in corners.ravel())
    path = folder / f"thing_{index}.xml"
    options = {"mass": 0.5 + index, "rgba": COLOURS[index % 3], "more": more} | changes
    path.write_text(XML.format(vertices=vertices, **options))
    return path


ARM_KG = 4 / 3 * np.pi * 0.05**3 * 1000


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [write(tmp_path, index) for index in range(3)]


def thing(files: list[Path], **realism) -> Thing:
    return Thing(mjcf=files[0], realism=Realism(variants=files[1:], **realism))


def actions(env: VecEnv, steps: int) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return 2 * torch.rand(steps, env.num_envs, env.specs.action_dim, generator=rng) - 1


def run(env: VecEnv, steps: int) -> Tensor:
    return torch.stack([env.step(action).obs["policy"] for action in actions(env, steps)])


def own(env: VecEnv) -> VariantSim:
    assert isinstance(env.sim, VariantSim)
    return env.sim


def test_a_simulation_steps_as_plain_mujoco_on_the_file_it_drew(files: list[Path]) -> None:
    env = VecEnv(thing(files), 9, seed=1, num_threads=2)
    env.reset()
    chosen = own(env).chosen.tolist()
    assert sorted(set(chosen)) == [0, 1, 2]
    starts = env.sim.data("qpos").clone()
    for action in actions(env, 15):
        env.step(action)
    touching = 0
    for sim_id, index in enumerate(chosen):
        model = mujoco.MjModel.from_xml_path(str(files[index]))
        data = mujoco.MjData(model)
        data.qpos[:] = starts[sim_id].numpy()
        for action in actions(env, 15):
            data.ctrl[:] = action[sim_id].double().numpy()
            mujoco.mj_step(model, data, 4)
        np.testing.assert_array_equal(env.sim.data("qpos")[sim_id], data.qpos)
        touching += data.ncon > 0
    assert touching > 3


def test_simple_bodies_go_with_general_ones(tmp_path: Path) -> None:
    # MuJoCo leaves zeros out of the inertia matrix of a body whose centre of mass is at its origin
    ball = '<body pos="1 0 0.3"><freejoint/><geom size="0.1" pos="0 0 {}"/></body>'
    files = [write(tmp_path, 0, more=ball.format(0)), write(tmp_path, 3, more=ball.format(0.05))]
    assert len({int(mujoco.MjModel.from_xml_path(str(file)).nC) for file in files}) == 2
    sim = VariantSim(thing(files).build_models(), 4)
    sim.choose(torch.arange(4), torch.tensor([0, 1, 0, 1]))
    sim.reset()
    sim.data("qvel")[:, 9:12] = 3.0
    sim.step(substeps=20)
    for sim_id in range(4):
        model = mujoco.MjModel.from_xml_path(str(files[sim_id % 2]))
        data = mujoco.MjData(model)
        data.qvel[9:12] = 3.0
        mujoco.mj_step(model, data, 20)
        np.testing.assert_allclose(sim.data("qpos")[sim_id], data.qpos, rtol=0, atol=1e-9)


def test_each_episode_draws_a_file_and_leaves_the_other_simulations_alone(files: list[Path]) -> None:
    envs = [VecEnv(thing(files), 30, seed=0, num_threads=1) for _ in range(2)]
    for env in envs:
        env.reset()
    disturbed, calm = envs
    disturbed.age[:15] = 15
    before = own(disturbed).chosen.clone()
    for action in actions(disturbed, 10):
        disturbed.step(action)
        calm.step(action)
    after = own(disturbed).chosen
    assert torch.equal(before[15:], after[15:]) and 5 < int((before[:15] != after[:15]).sum()) < 15
    assert torch.equal(disturbed.sim.data("qpos")[15:], calm.sim.data("qpos")[15:])


REALISM = {
    "randomize": {
        "mass": FieldRandomization("body_mass", (0.5, 1.5), names="thing"),
        "arm": FieldRandomization("dof_damping", (0.1, 0.4), names="arm", op=Op.ADD),
        "gravity": FieldRandomization("opt.gravity", (-0.5, 0.5), op=Op.ADD, columns=[2]),
    },
    "actuator_delays": {"late": Delay(range_s=(0.0, 0.02))},
}


def test_fields_of_a_simulation_are_drawn_on_top_of_its_file(files: list[Path]) -> None:
    env = VecEnv(thing(files, **{"randomize": REALISM["randomize"]}), 9, seed=1, num_threads=2)
    env.reset()
    starts = env.sim.data("qpos").clone()
    for action in actions(env, 15):
        env.step(action)
    sim = own(env)
    shares = []
    for sim_id, index in enumerate(sim.chosen.tolist()):
        model = mujoco.MjModel.from_xml_path(str(files[index]))
        shares.append(float(sim.param("body_mass")[sim_id, 1]) / model.body_mass[1])
        for field in ("body_mass", "dof_damping"):
            getattr(model, field)[...] = sim.param(field)[sim_id].numpy()
        model.opt.gravity[:] = sim.param("opt.gravity")[sim_id].numpy()
        data = mujoco.MjData(model)
        mujoco.mj_setConst(model, data)
        mujoco.mj_resetData(model, data)
        data.qpos[:] = starts[sim_id].numpy()
        for action in actions(env, 15):
            data.ctrl[:] = action[sim_id].double().numpy()
            mujoco.mj_step(model, data, 4)
        np.testing.assert_array_equal(env.sim.data("qpos")[sim_id], data.qpos)
        np.testing.assert_array_equal(sim.expanded()["body_subtreemass"][sim_id], model.body_subtreemass)
    assert 0.5 <= min(shares) < 0.8 and 1.2 < max(shares) <= 1.5


@pytest.mark.parametrize("realism", [{}, REALISM], ids=["plain", "randomised"])
def test_it_repeats_with_the_seed_and_continues_from_a_checkpoint(files: list[Path], realism: dict) -> None:
    task = thing(files, **realism)
    env = VecEnv(task, 6, seed=3, num_threads=2, stagger=True)
    env.reset()
    first = run(env, 13)
    state = env.state_dict()
    expected = run(env, 30)
    other = VecEnv(task, 6, seed=9, num_threads=1)
    other.reset()
    run(other, 5)
    other.load_state_dict(state)
    assert torch.equal(run(other, 30), expected)
    again = VecEnv(task, 6, seed=3, num_threads=1, stagger=True)
    again.reset()
    assert torch.equal(run(again, 13), first)
    with pytest.raises(RobotrlError, match="same model and num_envs"):
        VecEnv(task, 5).load_state_dict(state)


def test_constants_follow_the_fields_and_return_with_a_new_file(files: list[Path]) -> None:
    sim = VariantSim(thing(files).build_models(), 3)
    sim.choose(torch.arange(3), torch.arange(3))
    torch.testing.assert_close(sim.param("body_subtreemass")[:, 1], 0.5 + torch.arange(3).double() + ARM_KG)
    sim.param("body_mass")[1, 1] = 7.0
    sim.refresh_constants(torch.tensor([1]))
    assert sim.param("body_subtreemass")[1, 1] == 7.0 + ARM_KG
    assert set(sim.expanded()) >= {"body_mass", "body_subtreemass", "dof_invweight0"}
    assert "geom_rbound" not in sim.expanded()
    sim.choose(torch.tensor([1]), torch.tensor([0]))
    assert sim.param("body_mass")[1, 1] == 0.5 and sim.param("body_subtreemass")[1, 1] == 0.5 + ARM_KG
    with pytest.raises(UsageError, match="did you mean 'body_mass'"):
        sim.param("body_mas")
    with pytest.raises(UsageError, match="mesh_vert"):
        sim.param("mesh_vert")


def test_terrain_and_files_go_together(files: list[Path]) -> None:
    steps = {"s": Shape(Kind.STAIRS, (0.1, 0.3), (0.5, 0.5))}
    terrain = Terrain(steps, levels=2, size_m=4.0, flat_radius_m=0.5)
    env = VecEnv(thing(files, terrain=terrain), 12, num_threads=1)
    env.reset()
    run(env, 25)
    ground = env.sim.model.geom("ground").id
    maps = env.sim.param("geom_dataid")[:, ground]
    assert len(set(zip(maps.tolist(), own(env).chosen.tolist(), strict=True))) > 3
    for sim_id, index in enumerate(maps.tolist()):
        assert env.sim.batch.get_model(sim_id).geom_dataid[ground] == index


def test_pictures_show_the_file_of_each_simulation(files: list[Path]) -> None:
    env = VecEnv(thing(files), 9, seed=1, num_threads=1)
    env.reset()
    shapes = set()
    with Renderer(env.sim, 60, 60, "side") as renderer:
        for _ in range(2):
            for picture, index in zip(renderer.render(range(9)), own(env).chosen.tolist(), strict=True):
                colour = picture[30, 30].astype(int)
                assert colour.argmax() == index and colour.max() > 2 * np.sort(colour)[-2]
                mask = picture[..., index].astype(int) > picture.sum(-1) - picture[..., index]
                shapes.add((index, mask.tobytes()))
            env.reset()
    assert len(shapes) == 3


def test_a_failure_is_shown_on_its_file(files: list[Path]) -> None:
    task = thing(files, **{"randomize": REALISM["randomize"]})
    env = VecEnv(task, 6, seed=1, num_threads=1)
    env.recorder = FailureRecorder(env.sim, env.substeps, 1, steps=20, limit=1)
    env.reset()
    broken = int((own(env).chosen == 2).nonzero()[0])
    given = list(actions(env, 11))
    for action in given[:10]:
        env.step(action)
    env.sim.data("qvel")[broken, 0] = float("nan")
    assert not env.step(given[10]).valid[broken]
    (failure,) = env.recorder.take()
    assert (failure.simulation, failure.variant) == (broken, 2)
    tree = {"task": describe_task(thing(files), "thing"), "env_steps": 0, "control_dt_s": 0.02}
    tree |= {"mujoco_version": mujoco.__version__, "causes": list(failure.causes)}
    recording = FailureRecording(
        Path("f"), simulation=broken, states=failure.states[:10], commands=failure.commands[:10],
        params=failure.params, variant=failure.variant, **tree,
    )  # fmt: skip
    assert simulation_of(recording).sim.batch.get_model(0).nmeshvert == 40 + _filler_corners(files, 2)
    assert torch.equal(resimulate(recording), recording.states)


def _filler_corners(files: list[Path], index: int) -> int:
    model = thing(files).build_models()[index]
    return model.nmeshvert - mujoco.MjModel.from_xml_path(str(files[index])).nmeshvert


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": '<geom name="b" size="1"/>'}, "it has 4 geom objects instead of 3 ('b' in one only)"),
        ({"more": '<site name="b"/>'}, "it has 1 site objects instead of 0 ('b' in one only)"),
        ({"file": ('name="ground"', 'name="floor"')}, "its geom 0 is 'floor' instead of 'ground'"),
        ({"file": ("0.005", "0.002")}, "its timestep is 0.002 s instead of 0.005 s"),
        ({"file": ("<asset>", '<size nuserdata="3"/><asset>')}, "nuserdata is 3 instead of 0"),
    ],
)
def test_files_of_another_layout_are_refused_with_what_differs(
    tmp_path: Path, change: dict, message: str
) -> None:
    change = dict(change)
    old, new = change.pop("file", ("", ""))
    first = write(tmp_path, 0)
    other = write(tmp_path, 1, **change)
    other.write_text(other.read_text().replace(old or "<mujoco>", new or "<mujoco>"))
    with pytest.raises(UsageError) as error:
        VecEnv(thing([first, other]), 2)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(f"{other} does not have the layout of {first}: ")


def test_what_else_cannot_be(tmp_path: Path, files: list[Path]) -> None:
    with pytest.raises(RobotrlError, match=r"missing\.xml does not exist \(task Thing\.realism\.variants\)"):
        VecEnv(thing([files[0], tmp_path / "missing.xml"]), 2)
    with pytest.raises(UsageError, match=r"realism\.variants: only the cpu backend"):
        VecEnv(thing(files), 2, make_sim=BatchSim)
    more = write(tmp_path, 4)
    more.write_text(more.read_text().replace("</asset>", '<material name="b"/></asset>'))
    field = {"m": FieldRandomization("mat_rgba", (0.5, 1.0))}
    with pytest.raises(UsageError, match=r"randomize\.m: mat_rgba cannot differ .* hold 1, 2 rows of it"):
        VecEnv(thing([files[0], more], randomize=field), 2)


def test_it_is_declared_in_yaml_and_comes_back(files: list[Path]) -> None:
    words = f"task.realism.variants=[{files[1]},{files[2]}]"
    task = compose(["task=walker_walk", "algorithm=ppo", words]).task
    assert task.realism.variants == files[1:]
    assert describe_task(task, "t")["options"]["realism"]["variants"] == [str(f) for f in files[1:]]
    assert isinstance(VecEnv(compose_task("walker_walk", {}), 2).sim, BatchSim)
