"""System identification: the numbers of robots that MuJoCo alone simulated come out of their logs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import pytest
import yaml
from mujoco import sysid
from sysid_robots import (
    ARM_PARAMETERS,
    DELAY_S,
    DELAYED,
    DT_S,
    LEG,
    LEG_NOMINAL,
    LEG_PARAMETERS,
    LEG_TRUE,
    TRUE,
    TRUE_ARM,
    arm,
    record,
    step_leg,
    swing,
    written,
)

from robotrl.cli import main
from robotrl.compose import compose_task_words
from robotrl.core.types import ObsTerm
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.task import Task
from robotrl.training.sysid.estimates import Estimate, estimates_of
from robotrl.training.sysid.fit import _intervals, _Problem, fit
from robotrl.training.sysid.identified_model import read_spec
from robotrl.training.sysid.log import read_log
from robotrl.training.sysid.parameters import read_parameters, unknowns_of
from robotrl.training.sysid.prediction import Predictor


def predictor_of(folder: Path, model: str, parameters: str, *logs: Path) -> Predictor:
    model_file, parameters_file = written(folder, model, parameters)
    spec = read_spec(model_file)
    unknowns = unknowns_of(spec.compile(), read_parameters(parameters_file))
    return Predictor(spec, [read_log(log) for log in logs], unknowns)


def estimated(folder: Path, model: str, parameters: str, *logs: Path) -> dict[str, Estimate]:
    predictor = predictor_of(folder, model, parameters, *logs)
    found = estimates_of(predictor.unknowns, fit(predictor), 2.0, DT_S)
    return {each.unknown.name: each for each in found}


def check(estimate: Estimate, true: float, share: float) -> None:
    """One in twenty intervals misses by chance: seeds are those where none does."""
    lower, upper = estimate.interval
    assert lower <= true <= upper, (estimate.unknown.name, estimate.interval, true)
    assert abs(estimate.value - true) <= share * abs(true)


@pytest.fixture(scope="module")
def identified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The arm as the command identifies it, with a quantity that its log says nothing about."""
    folder = tmp_path_factory.mktemp("arm")
    log = record(folder / "bench.csv", TRUE_ARM)
    slip = "  slip: {field: geom_friction, columns: [0], range: [0.1, 2]}\n"
    model, parameters = written(folder, arm(), ARM_PARAMETERS + slip)
    out = folder / "out"
    words = ["sysid", str(log), "--model", str(model), "--params", str(parameters), "--out", str(out)]
    assert main(words) == 0
    return out, log


def test_every_true_number_of_the_arm_lies_in_its_interval(identified: tuple[Path, Path]) -> None:
    document = json.loads((identified[0] / "estimates.json").read_text())
    found = {each["name"]: each for each in document["estimates"]}
    for name, true in (TRUE | {"delay": DELAY_S}).items():
        lower, upper = found[name]["interval_95"]
        assert lower <= true <= upper, name
        assert abs(found[name]["estimate"] - true) < 0.03 * true, name
        assert (
            found[name]["unit"]
            == dict(damping="N m s/rad", armature="kg m^2", friction="N m", mass="kg", delay="s")[name]
        )
    assert abs(found["delay"]["estimate"] - DELAY_S) < 0.5e-3
    # what is left is the noise of the log
    for residual, std in zip(document["residuals"], (1e-3, 1e-2), strict=True):
        assert residual["after"] == pytest.approx(std, rel=0.1) and residual["before"] > 100 * std


def test_what_the_log_says_nothing_about_is_said(identified: tuple[Path, Path]) -> None:
    document = json.loads((identified[0] / "estimates.json").read_text())
    slip = document["estimates"][-1]
    assert slip["interval_95"] is None and slip["drawn"] == [0.1, 2.0] and slip["estimate"] == 1.0
    assert "say nothing" in slip["notes"][0]
    assert not any("say nothing" in note for each in document["estimates"][:-1] for note in each["notes"])


@dataclass
class Bench(Task):
    """The arm with its nominal model."""

    mjcf: Path = Path()
    control_dt_s: float = 0.01
    episode_length_s: float = 1.0

    def observation_terms(self, model):
        return {"policy": (ObsTerm("position", 1, "rad"),)}

    def reset(self, sim, ids, rng):
        pass

    def observe(self, sim):
        return {"policy": {"position": sim.data("qpos")}}

    def reward_terms(self, sim, action):
        return {"position": sim.data("qpos")[:, 0]}


def test_a_task_draws_what_was_identified(identified: tuple[Path, Path]) -> None:
    out, _ = identified
    words = [f"task._target_={__name__}.Bench", f"task.mjcf={out.parent / 'robot.xml'}"]
    task, _ = compose_task_words([*words, f"realism={out / 'realism.yaml'}"])
    env = VecEnv(task, 300, 0, num_threads=1)
    env.reset()
    section = yaml.safe_load((out / "realism.yaml").read_text())
    fields = {
        "damping": env.sim.param("dof_damping")[:, 0],
        "armature": env.sim.param("dof_armature")[:, 0],
        "friction": env.sim.param("dof_frictionloss")[:, 0],
        "mass": env.sim.param("body_mass")[:, 1],
        "slip": env.sim.param("geom_friction")[:, 0, 0],
        "delay": env.sim.param("actuator_delay")[:, 0],
    }
    for name, drawn in fields.items():
        entry = section["randomize"].get(name) or section["actuator_delays"]["delay"]
        lower, upper = entry.get("range") or entry["range_s"]
        assert lower <= float(drawn.min()) and float(drawn.max()) <= upper, name
        assert float(drawn.max() - drawn.min()) > 0.9 * (upper - lower), name
        if name in TRUE:
            assert lower < TRUE[name] < upper
    estimates = json.loads((out / "estimates.json").read_text())["estimates"]
    wide, narrow = (estimates[4][key] for key in ("drawn", "interval_95"))
    assert wide[1] - wide[0] == pytest.approx(2 * (narrow[1] - narrow[0]))


def replayed(model_file: Path, log: Path) -> np.ndarray:
    """Plain MuJoCo's positions when told what the log says; its delay buffer starts from zeros."""
    model = mujoco.MjModel.from_xml_path(str(model_file))
    rows = np.loadtxt(log, delimiter=",", skiprows=1)
    data, positions = mujoco.MjData(model), []
    for command in rows[:, 1]:
        positions.append(data.qpos[0])
        data.ctrl[0] = command
        for _ in range(round(0.01 / DT_S)):
            mujoco.mj_step(model, data)
    return np.array(positions) - rows[:, 2]


def test_the_identified_model_moves_as_the_robot_did(identified: tuple[Path, Path]) -> None:
    out, log = identified
    error = replayed(out / "identified.xml", log)
    assert np.sqrt((error**2).mean()) < 2e-3
    assert np.sqrt((replayed(out.parent / "robot.xml", log) ** 2).mean()) > 0.5


def test_report_and_pictures_open_without_a_network(identified: tuple[Path, Path]) -> None:
    page = (identified[0] / "report.html").read_text()
    assert "joint_velocity" in page and "damping" in page
    assert 'src="http' not in page and "cdn.plot.ly/plotly" not in page.split("<script>")[0]
    assert (identified[0] / "fit_1.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_exists_is_left_as_it_is(
    identified: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out, log = identified
    before = (out / "estimates.json").read_bytes()
    model, parameters = (str(out.parent / name) for name in ("robot.xml", "params.yaml"))
    assert main(["sysid", str(log), "--model", model, "--params", parameters, "--out", str(out)]) == 2
    assert "exists and is left as it is" in capsys.readouterr().err
    assert (out / "estimates.json").read_bytes() == before


def test_a_leg_of_two_joints_with_servos(tmp_path: Path) -> None:
    true = LEG.format(dt=DT_S, delayed=DELAYED.format(0.0093), **LEG_TRUE)
    logs = [record(tmp_path / f"{i}.csv", true, step_leg(i), 1.6, 0.02, seed=2 + i) for i in (0, 1)]
    nominal = LEG.format(dt=DT_S, delayed="", **LEG_NOMINAL)
    found = estimated(tmp_path, nominal, LEG_PARAMETERS, *logs)
    check(found["damping_hip"], LEG_TRUE["hip"], 0.03)
    check(found["damping_knee"], LEG_TRUE["knee"], 0.03)
    check(found["com"], LEG_TRUE["com"], 0.02)
    check(found["kp"], LEG_TRUE["kp"], 0.02)
    check(found["delay"], 0.0093, 0.05)
    assert found["damping_knee"].unknown.entry.names == "knee"


def test_a_model_far_off_finds_the_way_along_a_motion_without_feedback(tmp_path: Path) -> None:
    def leg(delayed: str, **numbers: float) -> str:
        text = LEG.format(dt=DT_S, delayed=delayed, **LEG_NOMINAL | numbers)
        return text.replace('kp="30.0" kv="0.5"', "").replace("<position", "<motor")

    true = leg(DELAYED.format(0.0093), hip=0.05, knee=0.04)
    log = record(
        tmp_path / "a.csv",
        true,
        lambda t: np.array([2.5 * np.sign(np.sin(3 * t)), 1.2 * np.sin(3 * t + 2 * t * t)]),
        duration_s=2.0,
        period_s=0.02,
    )
    parameters = LEG_PARAMETERS.replace("  kp: {field: actuator_kp, range: [5, 60]}\n", "")
    found = estimated(tmp_path, leg("", hip=0.8, knee=0.9, com=-0.22), parameters, log)
    check(found["damping_hip"], 0.05, 0.05)
    check(found["com"], LEG_NOMINAL["com"], 0.02)
    check(found["delay"], 0.0093, 0.05)


def test_readings_a_step_late_shorten_the_delay_by_that_step(tmp_path: Path) -> None:
    log = record(tmp_path / "a.csv", TRUE_ARM, steps_late=1)
    found = estimated(tmp_path, arm(), ARM_PARAMETERS, log)
    assert found["delay"].value == pytest.approx(DELAY_S - DT_S, abs=0.2e-3)


def test_sensors_are_those_of_their_time_and_zero_order_hold_is_no_trap(tmp_path: Path) -> None:
    log = record(tmp_path / "a.csv", TRUE_ARM, columns=("sensor", "joint_velocity"))
    held = arm('nsample="20" interp="zoh" delay="0.004"')
    found = estimated(tmp_path, held, ARM_PARAMETERS, log)
    assert found["delay"].unknown.nominal == 0.004
    check(found["delay"], DELAY_S, 0.02)
    check(found["friction"], TRUE["friction"], 0.05)


def test_delays_of_command_and_sensor_are_told_apart_only_by_an_undelayed_signal(tmp_path: Path) -> None:
    true = arm(DELAYED.format(DELAY_S), encoder=DELAYED.format(0.0071), **TRUE)
    parameters = ARM_PARAMETERS + "  age: {field: sensor_delay, range: [0, 0.02]}\n"
    both = record(tmp_path / "both.csv", true, columns=("sensor", "joint_velocity"), seed=1)
    found = estimated(tmp_path, arm(), parameters, both)
    check(found["delay"], DELAY_S, 0.03)
    check(found["age"], 0.0071, 0.05)
    one = record(tmp_path / "one.csv", true, columns=("sensor",))
    found = estimated(tmp_path, arm(), parameters, one)
    assert found["delay"].value + found["age"].value == pytest.approx(DELAY_S + 0.0071, abs=0.5e-3)
    assert any("correlation -1.00 with age" in note for note in found["delay"].notes)
    assert found["age"].half_width > 3e-3


def test_a_finer_physics_than_the_models_moves_the_delay_by_less_than_half_a_millisecond(
    tmp_path: Path,
) -> None:
    continuous = arm('nsample="200" interp="zoh" delay="0.0137"', dt=1e-4, **TRUE)
    log = record(tmp_path / "a.csv", continuous, duration_s=2.0)
    found = estimated(tmp_path, arm(), ARM_PARAMETERS, log)
    assert abs(found["delay"].value - DELAY_S) < 0.5e-3
    assert abs(found["mass"].value / TRUE["mass"] - 1.0) < 0.03


def test_uneven_rows_with_gaps_say_the_same(tmp_path: Path) -> None:
    log = record(tmp_path / "a.csv", TRUE_ARM, lambda t: swing(t // 0.02 * 0.02), 2.0, 0.004, seed=3)
    header, *rows = log.read_text().splitlines()
    rng = np.random.default_rng(1)
    kept, held = [header], None
    for row in rows:
        time, command, *readings = row.split(",")
        if rng.random() < 0.3 or command != held:  # a row may go only where the command is held
            readings = [cell if rng.random() < 0.7 else "" for cell in readings]
            kept.append(",".join([time, command, *readings]))
        held = command
    log.write_text("\n".join(kept) + "\n")
    found = estimated(tmp_path, arm(), ARM_PARAMETERS, log)
    check(found["delay"], DELAY_S, 0.03)
    check(found["damping"], TRUE["damping"], 0.03)


def test_intervals_equal_the_toolboxs_where_noise_is_white(tmp_path: Path) -> None:
    log = record(tmp_path / "a.csv", TRUE_ARM, duration_s=1.0)
    parameters = "parameters:\n  damping: {field: dof_damping, range: [0, 2]}\n"
    parameters += "  mass: {field: body_mass, names: link, range: [0.1, 2]}\n"
    problem = _Problem(predictor_of(tmp_path, arm(DELAYED.format(DELAY_S), **TRUE), parameters, log))
    x = np.concatenate([[TRUE["damping"], TRUE["mass"]], problem.starts[0]])
    problem.reweigh(x)
    residual = problem.residual(x)
    covariance, half_widths = _intervals(problem, x, np.ones(len(residual)))
    theirs, their_widths = sysid.calculate_intervals([residual[:, 0]], problem.jacobian(x, residual))
    np.testing.assert_allclose(half_widths, their_widths, rtol=1e-4)
    np.testing.assert_allclose(covariance, theirs, rtol=1e-3, atol=1e-6 * np.abs(theirs).max())
