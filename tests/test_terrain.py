"""Terrain: heights by hand and by ray, physics against plain MuJoCo, draws, curriculum, pictures, errors."""

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
from robotrl.sim.batch_renderer import BatchRenderer
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.cameras import ImageKind, View
from robotrl.sim.randomization import FieldRandomization
from robotrl.sim.terrain import Kind, Shape, Terrain, heights_m
from robotrl.tasks.realism import Ramp, Realism
from robotrl.tasks.task import Task

XML = """
<mujoco>
  <option timestep="0.005"/>
  <statistic extent="4"/>
  <visual><map znear="0.1" zfar="5"/></visual>
  <worldbody>
    <geom name="ground" type="plane" size="5 5 0.1" pos="0 0 0.3" friction="0.7 0.01 0.001"/>
    {more}
    <body name="rod" pos="0 0 0.5">
      <freejoint/>
      <geom name="rod" type="capsule" size="0.06 0.15" euler="0 80 0" mass="1"/>
      <site name="rod"/>
    </body>
    <camera name="above" pos="2.3 0.05 8" fovy="0.3"/>
  </worldbody>
  <actuator><motor name="push" site="rod" gear="1 0 0 0 0 0" ctrllimited="true" ctrlrange="-1 1"/></actuator>
</mujoco>
"""
FLOOR_M = 0.3
STAIRS = Shape(Kind.STAIRS, (0.1, 0.3), (0.5, 0.5))
SHAPES = {
    "down": Shape(Kind.STAIRS, (-0.1, -0.2), (0.5, 0.4)),
    "rough": Shape(Kind.ROUGH, (0.2, 0.4), (0.3, 0.2)),
    "slope": Shape(Kind.SLOPE, (0.1, 0.5), (1.0, 1.0)),
    "gaps": Shape(Kind.GAPS, (0.2, 0.2), (0.1, 0.4), spacing_m=0.6),
    "blocks": Shape(Kind.BLOCKS, (0.1, 0.3), (0.35, 0.35)),
}


@dataclass
class Rod(Task):
    """A rod that lies about."""

    mjcf: Path = Path()
    control_dt_s: float = 0.02
    episode_length_s: float = 0.2

    def observation_terms(self, model):
        return {"policy": (ObsTerm("height", 1, "m"),)}

    def reset(self, sim, ids: Tensor, rng: torch.Generator) -> None:
        sim.forward(ids)

    def observe(self, sim):
        return {"policy": {"height": sim.data("qpos")[:, 2]}}

    def reward_terms(self, sim, action: Tensor):
        return {"height": sim.data("qpos")[:, 2]}


def rod(folder: Path, more: str = "", **realism) -> Rod:
    path = folder / "rod.xml"
    path.write_text(XML.format(more=more))
    return Rod(mjcf=path, realism=Realism(**realism))


def small(shapes: dict[str, Shape] = SHAPES, **options) -> Terrain:
    return Terrain(
        shapes=shapes, **{"levels": 2, "size_m": 6.0, "resolution_m": 0.05, "flat_radius_m": 0.5} | options
    )


def at(terrain: Terrain, heights: Tensor, x_m: float, y_m: float) -> Tensor:
    column, row = (round((place + terrain.size_m / 2) / terrain.resolution_m) for place in (x_m, y_m))
    return heights[:, row, column]


def shown(env: VecEnv) -> Tensor:
    """(N,) which map each simulation has."""
    model = env.sim.model
    first = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_HFIELD, "terrain_map_0")
    return env.sim.param("geom_dataid")[:, model.geom("ground").id].long() - first


def no_action(env: VecEnv) -> Tensor:
    return torch.zeros(env.num_envs, env.specs.action_dim)


def test_slopes_stairs_and_gaps_have_the_heights_computed_by_hand() -> None:
    shapes = {"up": STAIRS, "ramp": Shape(Kind.SLOPE, (-0.2, 0.4), (1.0, 2.0)), "gaps": SHAPES["gaps"]}
    terrain = small(shapes, levels=3)
    heights = heights_m(terrain)
    assert heights.shape == (9, 121, 121)
    # levels of a step: 0.1, 0.2, 0.3 m; of a slope: -0.2, 0.1 / 1.5, 0.2; of a gap's width: 0.1, 0.25, 0.4 m
    gap = -0.2
    by_hand = {
        (0.5, -0.5): [0, 0, 0, 0, 0, 0, 0, 0, 0],
        (0.55, 0.0): [0.1, 0.2, 0.3, -0.01, 0.05 * 0.1 / 1.5, 0.01, 0, 0, 0],
        (0.0, -1.0): [0.1, 0.2, 0.3, -0.1, 0.5 * 0.1 / 1.5, 0.1, 0, 0, 0],
        (-1.05, 1.0): [0.2, 0.4, 0.6, -0.11, 0.55 * 0.1 / 1.5, 0.11, 0, 0, 0],
        (1.15, 0.3): [0.2, 0.4, 0.6, -0.13, 0.65 * 0.1 / 1.5, 0.13, gap, gap, gap],
        (1.3, -1.3): [0.2, 0.4, 0.6, -0.16, 0.8 * 0.1 / 1.5, 0.16, 0, gap, gap],
        (1.0, 1.5): [0.2, 0.4, 0.6, -0.2, 1.0 * 0.1 / 1.5, 0.2, 0, 0, gap],
        (0.3, 1.55): [0.3, 0.6, 0.9, -0.21, 1.05 * 0.1 / 1.5, 0.21, 0, 0, 0],
        (3.0, 3.0): [0.5, 1.0, 1.5, -0.5, 2.5 * 0.1 / 1.5, 0.5, 0, gap, 0],
    }
    for place, expected in by_hand.items():
        np.testing.assert_allclose(at(terrain, heights, *place), expected, atol=1e-12, err_msg=str(place))


def test_rough_ground_and_blocks_are_random_within_their_heights_and_flat_where_robots_start() -> None:
    shapes = {name: SHAPES[name] for name in ("rough", "blocks")}
    terrain = small(shapes, size_m=12.0)
    heights = heights_m(terrain)
    axis = torch.linspace(-6, 6, 241)
    flat = (axis.abs() < 0.5 + 1e-6).nonzero().squeeze(1)
    assert (heights[:, flat][:, :, flat] == 0).all()
    for each, span in zip(heights, (0.2, 0.4, 0.1, 0.3), strict=True):
        assert -span / 2 <= float(each.min()) < -0.48 * span and 0.48 * span < float(each.max()) <= span / 2
    # between its random heights, 0.2 m apart from the corner at -6 m, rough ground is linear
    knots = heights[1, 0:41:4, 0:41:4]
    middle = heights[1, 2:42:4, 0:41:4]
    torch.testing.assert_close(middle[:10], (knots[:-1] + knots[1:]) / 2)
    assert abs(np.corrcoef(knots[1:].flatten(), knots[:-1].flatten())[0, 1]) < 0.3
    # blocks are constant on 7 x 7 points, and do not repeat
    blocks = heights[3, :70, :70].reshape(10, 7, 10, 7)
    assert (blocks == blocks[:, :1, :, :1]).all() and len(blocks[:, 0, :, 0].unique()) == 100
    assert torch.equal(heights, heights_m(terrain))
    assert not torch.equal(heights, heights_m(small(shapes, size_m=12.0, seed=1)))


def test_rays_hit_the_terrain_at_the_heights_it_declares(tmp_path: Path) -> None:
    terrain = small()
    env = VecEnv(rod(tmp_path, terrain=terrain), 20, seed=1, num_threads=1)
    env.reset()
    assert len(shown(env).unique()) > 5
    heights = heights_m(terrain)
    places = [(x, y) for x in (-2.55, -1.15, 0.4, 1.3, 2.9) for y in (-1.9, 0.0, 1.05)]
    for sim_id, index in enumerate(shown(env).tolist()):
        model, data = env.sim.batch.get_model(sim_id), env.sim.batch.get_data(sim_id)
        for x, y in places:
            hit = np.zeros(1, np.int32)
            start, down = np.array([x, y, 5.0]), np.array([0.0, 0.0, -1.0])
            distance = mujoco.mj_ray(model, data, start, down, None, 1, model.body("rod").id, hit)
            assert hit[0] == model.geom("ground").id
            expected = FLOOR_M + float(at(terrain, heights, x, y)[index])
            assert 5.0 - distance == pytest.approx(expected, abs=1e-6)


def test_a_simulation_steps_as_plain_mujoco_on_its_terrain(tmp_path: Path) -> None:
    terrain = small(flat_radius_m=0.0)
    env = VecEnv(rod(tmp_path, terrain=terrain), 10, seed=0, num_threads=2)
    env.reset()
    # heights between the lowest and the highest point of all maps
    heights = heights_m(terrain)
    lowest, span = float(heights.min()), float(heights.max() - heights.min())
    position = torch.tensor([[0.8, -0.3, 1.6]]) + 0.1 * torch.arange(10).unsqueeze(1)
    env.sim.data("qpos")[:, :3] = position.double()
    env.sim.step(substeps=150)
    assert len(shown(env).unique()) > 3
    touching = 0
    for sim_id, index in enumerate(shown(env).tolist()):
        hfield = f'<hfield name="h" nrow="121" ncol="121" size="3 3 {span!r} 0.05"/>'
        text = XML.format(more="").replace("<worldbody>", f"<asset>{hfield}</asset><worldbody>")
        floor = f'type="hfield" hfield="h" pos="0 0 {FLOOR_M + lowest!r}"'
        text = text.replace('type="plane" size="5 5 0.1" pos="0 0 0.3"', floor)
        model = mujoco.MjModel.from_xml_string(text)
        model.hfield_data[:] = ((heights[index] - lowest) / span).flatten().numpy()
        data = mujoco.MjData(model)
        data.qpos[:3] = position[sim_id].double().numpy()
        mujoco.mj_step(model, data, 150)
        np.testing.assert_array_equal(env.sim.data("qpos")[sim_id], data.qpos)
        touching += data.ncon > 0
    assert touching > 5


def test_the_floor_keeps_its_name_and_surface_and_goes_on_below_the_map(tmp_path: Path) -> None:
    model = rod(tmp_path, terrain=small()).build_model()
    ground, outside = model.geom("ground"), model.geom("terrain_outside")
    assert ground.type == mujoco.mjtGeom.mjGEOM_HFIELD and outside.type == mujoco.mjtGeom.mjGEOM_PLANE
    np.testing.assert_array_equal(ground.friction, [0.7, 0.01, 0.001])
    np.testing.assert_array_equal(outside.friction, ground.friction)
    # the lowest height is that of six steps of 0.2 m down
    assert ground.pos[2] == pytest.approx(FLOOR_M - 7 * 0.2)
    assert outside.pos[2] == pytest.approx(FLOOR_M - 7 * 0.2 - 0.05)


@pytest.mark.parametrize("name", ["quadruped_walk", "Ant-v5", "dog_walk"])
def test_robots_start_on_terrain_as_on_the_floor(name: str) -> None:
    plain = compose_task(name, {})
    rough = compose_task(name, {})
    rough.realism.terrain = Terrain(SHAPES, levels=2, flat_radius_m=2.0)
    starts = []
    for task in (plain, rough):
        env = VecEnv(task, 6, num_threads=1)
        env.reset()
        env.sim.reset()
        task.reset(env.sim, torch.arange(6), torch.Generator().manual_seed(3))
        env.sim.forward()
        starts.append((env.sim.data("qpos").clone(), env.sim.data("ncon").clone()))
    # heights are drawn in steps of a centimetre, at which a toe may just touch
    np.testing.assert_allclose(starts[0][0], starts[1][0], atol=0.0101)
    assert torch.equal(starts[0][1], starts[1][1])


def test_episodes_draw_shapes_and_levels_evenly_within_the_difficulty(tmp_path: Path) -> None:
    terrain = small({"up": STAIRS, "slope": SHAPES["slope"]}, levels=5, difficulty=(0.2, 0.8))
    env = VecEnv(rod(tmp_path, terrain=terrain), 3000, seed=0, num_threads=1)
    env.reset()
    counts = torch.bincount(shown(env), minlength=10).reshape(2, 5) / 3000
    expected = torch.tensor([0, 1, 1, 1, 0]).expand(2, 5) / 6
    torch.testing.assert_close(counts, expected, atol=0.03, rtol=0)
    assert (counts[:, [0, 4]] == 0).all()


def test_each_episode_of_a_simulation_draws_anew_and_leaves_the_others_alone(tmp_path: Path) -> None:
    env = VecEnv(rod(tmp_path, terrain=small()), 30, seed=0, num_threads=1)
    env.reset()
    env.age[:15] = 5
    before = shown(env).clone()
    for _ in range(5):
        step = env.step(no_action(env))
    assert step.truncated.tolist() == [True] * 15 + [False] * 15
    after = shown(env)
    assert torch.equal(before[15:], after[15:]) and int((before[:15] != after[:15]).sum()) > 8


def test_a_curriculum_ramps_the_difficulty(tmp_path: Path) -> None:
    realism = {
        "terrain": small({"up": STAIRS}, levels=4),
        "curriculum": {"steep": Ramp("terrain.difficulty", [0.0, 0.0], [0.0, 1.0])},
    }
    env = VecEnv(rod(tmp_path, **realism), 200, seed=0, num_threads=1)
    highest = []
    for progress in (0.0, 0.5, 1.0):
        assert env.set_progress(progress) == {"curriculum/steep": progress}
        env.reset()
        highest.append(int(shown(env).max()))
    assert highest == [0, 1, 3]


def test_it_repeats_with_the_seed_and_continues_from_a_checkpoint(tmp_path: Path) -> None:
    friction = FieldRandomization("geom_friction", (0.5, 1.5), names="ground")
    task = rod(tmp_path, terrain=small(), randomize={"friction": friction})

    def run(env: VecEnv, steps: int) -> Tensor:
        return torch.cat([env.step(no_action(env)).obs["policy"] for _ in range(steps)])

    env = VecEnv(task, 6, seed=3, num_threads=2, stagger=True)
    env.reset()
    first = run(env, 8)
    state = env.state_dict()
    expected = run(env, 15)
    other = VecEnv(task, 6, seed=9, num_threads=1)
    other.reset()
    other.load_state_dict(state)
    assert torch.equal(run(other, 15), expected)
    again = VecEnv(task, 6, seed=3, num_threads=1, stagger=True)
    again.reset()
    assert torch.equal(run(again, 8), first)


def test_a_bundle_describes_it(tmp_path: Path) -> None:
    section = describe_task(rod(tmp_path, terrain=small()), "rod")
    assert section["options"]["realism"]["terrain"]["shapes"]["gaps"]["spacing_m"] == 0.6


def test_pictures_show_the_terrain_of_each_simulation(tmp_path: Path) -> None:
    terrain = small({"up": STAIRS, "down": SHAPES["down"]})
    env = VecEnv(rod(tmp_path, terrain=terrain), 8, seed=0, num_threads=1)
    env.reset()
    heights = at(terrain, heights_m(terrain), 2.3, 0.05)
    with BatchRenderer(env.sim, [View("above", 8, 8, ImageKind.DEPTH)], num_threads=1) as renderer:
        (depth,) = renderer.render()
    assert len(shown(env).unique()) == 4
    for picture, index in zip(depth, shown(env).tolist(), strict=True):
        np.testing.assert_allclose(picture, 8.0 - FLOOR_M - float(heights[index]), atol=0.01)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("shapes.s={kind: stair, height_m: [0, 1], length_m: [1, 1]}", "did you mean 'stairs'"),
        ("shapes.s={kind: stairs, height: [0, 1], length_m: [1, 1]}", "did you mean 'height_m'"),
        ("shapes.s={kind: rough, height_m: [0, -1], length_m: [1, 1]}", "at least 0, got [0.0, -1.0]"),
        ("shapes.s={kind: gaps, height_m: [1, 1], length_m: [1, 1]}", "give spacing_m with kind=gaps"),
        ("shapes.s={kind: slope, height_m: [1, 1], length_m: [1, 1], spacing_m: 1}", "spacing_m"),
        ("shapes.s={kind: slope, height_m: [1, 1], length_m: [0.01, 1]}", "at least resolution_m, 0.1"),
        ("levels=3", "levels is given, but no shapes"),
        ("levels=0", "levels must be at least 1"),
        ("size_m=10.03", "whole multiple of resolution_m"),
        ("flat_radius_m=10", "below half of size_m"),
        ("difficulty=[0.5, 1.5]", "difficulty must be at most 1"),
        ("difficulty=[0.5, 0.2]", "upside down"),
        ("seed=-1", "seed must be in"),
    ],
)
def test_impossible_terrain_gets_one_clear_line(words: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        compose(["task=quadruped_walk", "algorithm=ppo", f"task.realism.terrain.{words}"])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        ("", {"floor": "grond"}, "unknown horizontal plane 'grond' (did you mean 'ground'?)"),
        ('<geom name="b" type="plane" size="1 1 1"/>', {}, "give floor, one of ['ground', 'b']"),
    ],
)
def test_the_floor_must_be_clear(tmp_path: Path, more: str, options: dict, message: str) -> None:
    with pytest.raises(UsageError) as error:
        rod(tmp_path, more, terrain=small(**options)).build_model()
    assert message in str(error.value) and str(error.value).startswith("realism.terrain: ")


def test_models_without_a_floor_or_with_terrain_of_their_own_are_refused() -> None:
    for name, message in (
        ("InvertedPendulum-v5", "no horizontal plane is fixed"),
        ("quadruped_escape", "height field of its own"),
    ):
        task = compose_task(name, {})
        task.realism.terrain = small()
        with pytest.raises(RobotrlError, match=message):
            task.build_model()


def test_only_the_difficulty_can_be_ramped() -> None:
    ramp = Ramp("terrain.shapes.down.height_m", [0.0, 0.0], [0.0, 1.0])
    with pytest.raises(UsageError, match=r"ramp terrain\.difficulty"):
        Realism(terrain=small(), curriculum={"c": ramp})


def test_the_floor_is_found_however_it_was_placed(tmp_path: Path) -> None:
    task = rod(tmp_path, terrain=small())
    text = task.mjcf.read_text()
    plane = text[text.index("<geom") : text.index("/>", text.index("<geom")) + 2]
    turned = plane.replace('pos="0 0 0.3"', 'zaxis="0 0 1"')
    task.mjcf.write_text(text.replace(plane, f'<frame pos="1 2 0.3" euler="0 0 90">{turned}</frame>'))
    ground = task.build_model().geom("ground")
    np.testing.assert_allclose(ground.pos, [0, 0, FLOOR_M - 7 * 0.2], atol=1e-12)
    np.testing.assert_array_equal(ground.quat, [1, 0, 0, 0])


def test_a_wall_is_no_floor(tmp_path: Path) -> None:
    wall = '<geom name="wall" type="plane" size="1 1 1" pos="3 0 0" zaxis="-1 0 0"/>'
    sim = BatchSim(rod(tmp_path, wall, terrain=small()).build_model(), 1)
    assert sim.model.geom("wall").type == mujoco.mjtGeom.mjGEOM_PLANE
