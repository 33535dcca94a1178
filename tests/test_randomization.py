"""Randomised model fields against their declared distributions and against plain MuJoCo."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch
from scipy import stats

from robotrl.core.errors import UsageError
from robotrl.core.paths import ASSETS
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.draws import Distribution, When
from robotrl.sim.randomization import FieldRandomization, Op, Randomizer
from robotrl.tasks.gymnasium.pusher import Pusher
from robotrl.tasks.realism import Realism

N = 400
DT_S = 0.01


def make_sim(num_envs: int = N) -> BatchSim:
    model = mujoco.MjModel.from_xml_path(str(ASSETS / "control_suite" / "walker.xml"))
    return BatchSim(model, num_envs, num_threads=2)


def randomized(sim: BatchSim, seed: int = 0, **items: FieldRandomization) -> Randomizer:
    randomizer = Randomizer(sim, items, DT_S)
    randomizer.reset(torch.arange(sim.num_envs), torch.Generator().manual_seed(seed))
    return randomizer


def test_scaled_masses_are_uniform_and_drawn_for_each_body_alone() -> None:
    sim = make_sim()
    randomized(sim, mass=FieldRandomization("body_mass", (0.5, 1.5), names="torso|left_.*"))
    factor = (sim.param("body_mass") / torch.from_numpy(sim.model.body_mass)).numpy()
    names = [sim.model.body(i).name for i in range(sim.model.nbody)]
    for column, name in enumerate(names[1:], start=1):
        if name == "torso" or name.startswith("left_"):
            assert stats.kstest(factor[:, column], stats.uniform(0.5, 1.0).cdf).pvalue > 1e-3
        else:
            np.testing.assert_array_equal(factor[:, column], 1.0)
    torso, thigh = names.index("torso"), names.index("left_thigh")
    assert abs(np.corrcoef(factor[:, torso], factor[:, thigh])[0, 1]) < 0.2


def test_one_draw_for_several_objects_and_chosen_columns() -> None:
    sim = make_sim()
    floor = FieldRandomization("geom_friction", (0.2, 0.9), op=Op.SET, columns=[0], shared=True)
    randomized(sim, floor=floor)
    friction = sim.param("geom_friction").numpy()
    assert (friction[:, :, 0] == friction[:, :1, 0]).all() and np.ptp(friction[:, 0, 0]) > 0.6
    np.testing.assert_array_equal(friction[0, :, 1:], sim.model.geom_friction[:, 1:])


SERVOS = """
<mujoco>
  <worldbody><body><joint name="a"/><joint name="b"/><geom size="0.1"/></body></worldbody>
  <actuator>
    <position name="a" joint="a" kp="10" kv="1"/><position name="b" joint="b" kp="20" kv="2"/>
    <motor name="c" joint="b"/>
  </actuator>
</mujoco>
"""


def test_gains_of_servos_are_one_quantity_each() -> None:
    sim = BatchSim(mujoco.MjModel.from_xml_string(SERVOS), N, num_threads=1)
    kp = FieldRandomization("actuator_kp", (0.5, 1.5), names="a|b")
    kd = FieldRandomization("actuator_kd", (0.2, 0.4), op=Op.SET, names="b")
    randomized(sim, kp=kp, kd=kd)
    gain, bias = sim.param("actuator_gainprm").numpy(), sim.param("actuator_biasprm").numpy()
    np.testing.assert_array_equal(bias[:, :2, 1], -gain[:, :2, 0])
    assert stats.kstest(gain[:, 1, 0] / 20, stats.uniform(0.5, 1.0).cdf).pvalue > 1e-3
    assert stats.kstest(-bias[:, 1, 2], stats.uniform(0.2, 0.2).cdf).pvalue > 1e-3
    np.testing.assert_array_equal(bias[:, 0, 2], -1.0)
    for item, message in (
        (FieldRandomization("actuator_kp", (0.5, 1.5)), "'c' is no position servo"),
        (FieldRandomization("actuator_kp", (0.5, 1.5), names="a", columns=[0]), "give no columns"),
        (FieldRandomization("actuator_kd", (-1, 1), op=Op.SET, names="a"), "must not be negative"),
    ):
        with pytest.raises(UsageError, match=message):
            randomized(sim, item=item)


def test_log_uniform_and_normal_draws() -> None:
    sim = make_sim()
    randomized(
        sim,
        damping=FieldRandomization(
            "dof_damping", (0.01, 1.0), op=Op.SET, distribution=Distribution.LOG_UNIFORM, names="right_hip"
        ),
        gravity=FieldRandomization(
            "opt.gravity", (0.5, 0.2), op=Op.ADD, distribution=Distribution.NORMAL, columns=[2]
        ),
    )
    dof = sim.model.joint("right_hip").dofadr[0]
    log10 = np.log10(sim.param("dof_damping")[:, dof].numpy())
    assert stats.kstest(log10, stats.uniform(-2.0, 2.0).cdf).pvalue > 1e-3
    gravity = sim.param("opt.gravity").numpy()
    assert stats.kstest(gravity[:, 2], stats.norm(-9.81 + 0.5, 0.2).cdf).pvalue > 1e-3
    assert (gravity[:, :2] == 0).all()


def test_physics_and_constants_are_those_of_a_model_compiled_with_the_drawn_values() -> None:
    sim = make_sim(4)
    randomized(
        sim,
        mass=FieldRandomization("body_mass", (0.5, 1.5)),
        inertia=FieldRandomization("body_inertia", (0.5, 1.5)),
        armature=FieldRandomization("dof_armature", (0.5, 2.0)),
        strength=FieldRandomization("actuator_gainprm", (0.7, 1.3), columns=[0]),
    )
    sim.reset()
    sim.forward()
    ctrl = torch.full((4, sim.model.nu), 0.3, dtype=torch.float64)
    sim.step(ctrl, 50)
    for row in range(4):
        model = mujoco.MjModel.from_xml_path(str(ASSETS / "control_suite" / "walker.xml"))
        for field in ("body_mass", "body_inertia", "dof_armature", "actuator_gainprm"):
            getattr(model, field)[...] = sim.param(field)[row].numpy()
        data = mujoco.MjData(model)
        mujoco.mj_setConst(model, data)
        mujoco.mj_resetData(model, data)
        data.ctrl[:] = 0.3
        mujoco.mj_step(model, data, 50)
        np.testing.assert_allclose(sim.data("qpos")[row], data.qpos, atol=1e-9)
        np.testing.assert_allclose(
            sim.batch.expanded("body_subtreemass")[row], model.body_subtreemass, rtol=1e-12
        )


def test_each_draw_lasts_as_long_as_declared() -> None:
    sim, rng = make_sim(6), torch.Generator().manual_seed(1)
    interval = FieldRandomization(
        "dof_armature", (0.5, 1.5), when=When.INTERVAL, interval_s=(2 * DT_S, 2 * DT_S)
    )
    items = {
        "mass": FieldRandomization("body_mass", (0.5, 1.5), when=When.ONCE),
        "friction": FieldRandomization("geom_friction", (0.5, 1.5)),
        "armature": interval,
    }
    randomizer = Randomizer(sim, items, DT_S)
    randomizer.reset(torch.arange(6), rng)
    fields = ("body_mass", "geom_friction", "dof_armature")
    before = {field: sim.param(field).clone() for field in fields}
    ids = torch.tensor([1, 4])
    randomizer.reset(ids, rng)
    same = {f: (sim.param(f) == before[f]).flatten(1).all(1).tolist() for f in fields}
    assert same["body_mass"] == [True] * 6
    assert same["geom_friction"] == same["dof_armature"] == [True, False, True, True, False, True]

    before = {field: sim.param(field).clone() for field in fields}
    randomizer.step(rng)
    assert torch.equal(sim.param("dof_armature"), before["dof_armature"])
    randomizer.step(rng)
    assert not (sim.param("dof_armature") == before["dof_armature"]).flatten(1).all(1).any()
    assert torch.equal(sim.param("geom_friction"), before["geom_friction"])


def test_draws_on_one_field_apply_in_order_and_do_not_accumulate() -> None:
    sim, rng = make_sim(3), torch.Generator().manual_seed(0)
    items = {
        "double": FieldRandomization("body_mass", (2.0, 2.0)),
        "load": FieldRandomization("body_mass", (1.0, 1.0), op=Op.ADD, names="torso"),
    }
    randomizer = Randomizer(sim, items, DT_S)
    for _ in range(3):
        randomizer.reset(torch.arange(3), rng)
    expected = 2.0 * sim.model.body_mass
    expected[sim.model.body("torso").id] += 1.0
    np.testing.assert_allclose(sim.param("body_mass")[2], expected, rtol=1e-14)


def test_state_continues_bit_for_bit() -> None:
    items = {
        "mass": FieldRandomization("body_mass", (0.5, 1.5), when=When.ONCE),
        "gain": FieldRandomization(
            "actuator_gainprm", (0.5, 1.5), columns=[0], when=When.INTERVAL, interval_s=(0.01, 0.05)
        ),
    }
    sim, rng = make_sim(5), torch.Generator().manual_seed(2)
    randomizer = Randomizer(sim, items, DT_S)
    randomizer.reset(torch.arange(5), rng)
    for _ in range(3):
        randomizer.step(rng)
    other_sim, other_rng = make_sim(5), torch.Generator()
    other = Randomizer(other_sim, items, DT_S)
    other_sim.load_state_dict(sim.state_dict())
    other.load_state_dict(randomizer.state_dict())
    other_rng.set_state(rng.get_state())
    for _ in range(4):
        randomizer.step(rng)
        other.step(other_rng)
    randomizer.reset(torch.tensor([0, 3]), rng)
    other.reset(torch.tensor([0, 3]), other_rng)
    for field in ("body_mass", "actuator_gainprm"):
        assert torch.equal(sim.param(field), other_sim.param(field))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"field": "body_mas", "range": (1, 2)}, "body_mass"),
        ({"field": "body_mass", "range": (1, 2), "names": "torsoo"}, "did you mean 'torso'"),
        ({"field": "body_mass", "range": (1, 2), "names": "("}, "not a regular expression"),
        ({"field": "body_mass", "range": (-2, 1)}, "must not be negative"),
        ({"field": "body_mass", "range": (-9, 0), "op": Op.ADD}, "must not be negative"),
        ({"field": "geom_friction", "range": (1, 2), "columns": [3]}, "columns 0 to 2"),
        ({"field": "actuator_delay", "range": (0, 1)}, "actuator_delays"),
        ({"field": "opt.timestep", "range": (1, 2)}, "control rate"),
        ({"field": "geom_contype", "range": (1, 2)}, "whole numbers"),
        ({"field": "hfield_data", "range": (1, 2)}, "asset"),
    ],
)
def test_what_cannot_be_randomised_is_refused_with_the_reason(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        Randomizer(make_sim(2), {"mine": FieldRandomization(**options)}, DT_S)
    assert "randomize.mine" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"range": (2, 1)}, "upside down"),
        ({"range": (0, float("nan"))}, "finite"),
        ({"range": (0, 1), "distribution": Distribution.LOG_UNIFORM}, "above 0"),
        ({"range": (0, -1), "distribution": Distribution.NORMAL}, "std >= 0"),
        ({"range": (0, 1), "when": When.INTERVAL}, "interval_s"),
        ({"range": (0, 1), "interval_s": (1, 2)}, "interval_s"),
        ({"range": (0, 1), "when": When.INTERVAL, "interval_s": (3, 2)}, "upside down"),
    ],
)
def test_impossible_ranges_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FieldRandomization("body_mass", **options)


def test_a_body_that_was_compiled_as_simple_can_lose_its_shape() -> None:
    shifted = FieldRandomization("body_ipos", (0.05, 0.06), op=Op.ADD, names="object")
    plain, task = Pusher().build_model(), Pusher(realism=Realism(randomize={"shifted": shifted}))
    assert plain.body("object").simple == 2
    env = VecEnv(task, 3, seed=0)
    env.reset()
    offset = env.sim.param("body_ipos")[1].numpy()
    assert 0.05 <= offset[plain.body("object").id].min() <= offset[plain.body("object").id].max() <= 0.06
    reference = mujoco.MjSpec.from_file(str(task.mjcf))
    for body in reference.bodies:
        body.simple = False
    model = reference.compile()
    data = mujoco.MjData(model)
    model.body_ipos[:] = offset
    mujoco.mj_setConst(model, data)
    data.qpos[:], data.qvel[:] = env.sim.data("qpos")[1], env.sim.data("qvel")[1]
    mujoco.mj_forward(model, data)
    env.step(torch.zeros(3, 7))
    mujoco.mj_step(model, data, env.substeps)
    np.testing.assert_allclose(env.sim.data("qpos")[1], data.qpos, rtol=0, atol=1e-12)
