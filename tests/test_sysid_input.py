"""What `robotrl sysid` refuses, each with one line, and what its files may name."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import mujoco
import numpy as np
import pytest
from sysid_robots import ARM_PARAMETERS, DT_S, LEG, LEG_NOMINAL, arm, written

from robotrl.cli import main
from robotrl.core.errors import UsageError
from robotrl.deploy.runtime.frame_log import Frame, write_mcap
from robotrl.deploy.runtime.robots.robot import Layout, Signal
from robotrl.sim.draws import When
from robotrl.training.sysid.deployment_log import read_deployment
from robotrl.training.sysid.estimates import Estimate, realism_yaml
from robotrl.training.sysid.identified_model import read_spec, write_model
from robotrl.training.sysid.log import read_log
from robotrl.training.sysid.parameters import (
    ModelParameter,
    Unknown,
    read_parameters,
    unknowns_of,
    with_values,
)
from robotrl.training.sysid.prediction import Predictor

HEADER = "time_s,ctrl/elbow,joint_position/elbow,joint_velocity/elbow"
ROWS = [f"{0.01 * k:.2f},0.5,{0.001 * k},0.1" for k in range(30)]


def run(folder: Path, model: str, parameters: str, log: str) -> int:
    model_file, parameters_file = written(folder, model, parameters)
    (folder / "log.csv").write_text(log)
    words = ["sysid", str(folder / "log.csv"), "--model", str(model_file)]
    return main([*words, "--params", str(parameters_file), "--out", str(folder / "out")])


def log_of(header: str = HEADER, *rows: str) -> str:
    return "\n".join([header, *(rows or ROWS)]) + "\n"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (log_of(HEADER.replace("time_s", "time")), "has no column 'time_s'"),
        (log_of(HEADER.replace("ctrl/elbow", "command")), "has no command, a column ctrl/ACTUATOR"),
        (
            log_of(HEADER.replace("ctrl/elbow", "ctrl/elbo")),
            "unknown actuator 'elbo' (did you mean 'elbow'?)",
        ),
        (log_of("time_s,ctrl/elbow,p,v"), "has nothing measured"),
        (log_of("time_s,ctrl/elbow,x,joint_velocity/elbow"), "no column 'joint_position/elbow'"),
        (log_of(HEADER.replace("position/elbow", "position/knee")), "unknown joint 'knee'"),
        (log_of(HEADER.replace("joint_velocity/elbow", "sensor/gyro")), "unknown sensor 'gyro'"),
        (log_of(HEADER.replace("joint_velocity", "joint_position")), "two columns 'joint_position/elbow'"),
        (log_of(HEADER, *ROWS[:3], "0.03,nan,0,0"), "row 5: ctrl/elbow must be a finite number, got 'nan'"),
        (log_of(HEADER, *ROWS[:3], "0.03,0.5,high,0"), "row 5: joint_position/elbow must be a finite number"),
        (log_of(HEADER, *ROWS[:3], "0.03,0.5"), "row 5: 2 cells, the header has 4"),
        (log_of(HEADER, *ROWS[:3], "0.02,0.5,0,0"), "row 5: time_s rises by 0 s from the last"),
        (log_of(HEADER, *ROWS[:9], "9,0.5,0,0"), "row 11: time_s rises by 8.92 s"),
        (log_of(HEADER, *ROWS[:5]), "lasts 0.04 s, no longer than the longest delay of 0.04 s"),
        (log_of(HEADER, *ROWS[:7]), "6 readings for 7 unknown numbers"),
        ("", "has no column 'time_s'"),
        (
            log_of(HEADER, *(f"{0.01 * k:.2f},0.5,,0.1" for k in range(30))),
            "joint_position/elbow has no reading after 0.04 s",
        ),
        (HEADER + "\n", "has 0 rows of numbers"),
    ],
)
def test_logs_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], log: str, message: str
) -> None:
    assert run(tmp_path, arm(), ARM_PARAMETERS, log) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("a: [", "is not a parameters file"),
        ("- a", "expected keys and values"),
        ("parameters: {}", "there is nothing to identify"),
        ("parameter: {}", "unknown key 'parameter' (did you mean 'parameters'?)"),
        ("parameters: {d: {field: dof_damping}}", "range must be given"),
        ("parameters: {d: {field: dof_damping, range: [1, 0]}}", "upside down"),
        ("parameters: {d: {field: dof_damping, range: [1, 1]}}", "must be wider"),
        ("parameters: {d: {field: dof_damping, range: [-1, 1]}}", "must not reach below 0"),
        ("parameters: {d: {field: body_mass, names: link, range: [0, 1]}}", "must lie above 0"),
        ("parameters: {d: {field: actuator_delay, range: [0, 1], op: scale}}", "op must be set"),
        ("parameters: {d: {field: dof_damping, range: [0, 1], nominal: 2}}", "nominal must lie in range"),
        ("parameters: {d: {field: dof_damping, range: [0.5, 1]}}", "dof_damping is 0.1, outside range"),
        ("parameters: {d: {field: dof_dampin, range: [0, 1]}}", "did you mean 'dof_damping'"),
        ("parameters: {d: {field: dof_jntid, range: [0, 1]}}", "does not hold real numbers"),
        ("parameters: {d: {field: dof_damping, names: knee, range: [0, 1]}}", "no joint matches 'knee'"),
        ("parameters: {d: {field: body_mass, range: [0.1, 1]}}", "differ (0 to 0.6)"),
        ("parameters: {d: {field: body_ipos, names: link, columns: [3], range: [0, 1]}}", "columns 0 to 2"),
        ("parameters: {d: {field: actuator_kp, range: [0, 1]}}", "actuator 'elbow' is no position servo"),
        (
            "parameters: {d: {field: dof_damping, range: [0, 1]}, e: {field: dof_damping, range: [0, 1]}}",
            "dof_damping is identified by d already",
        ),
    ],
)
def test_parameters_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parameters: str, message: str
) -> None:
    assert run(tmp_path, arm(), parameters, log_of()) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<joint name", "<freejoint/></body><body><joint name"), "is neither a hinge nor a slide"),
        (("<motor", '<intvelocity kp="1" actrange="-1 1"'), "has a state that a log does not tell"),
        (("<mujoco", "<mujoco><no/"), "does not compile"),
    ],
)
def test_models_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], message: str
) -> None:
    model = arm().replace(
        '<body name="link">', '<body name="root"><geom size="0.1"/></body><body name="link">'
    )
    if "freejoint" in change[1]:
        change = ('<body name="root">', '<body name="root"><freejoint/>')
    assert run(tmp_path, model.replace(*change), ARM_PARAMETERS, log_of()) == 2
    assert message in capsys.readouterr().err


def test_help_and_what_to_install_where_the_toolbox_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mujoco import sysid

    with pytest.raises(SystemExit):
        main(["sysid", "--help"])
    assert "examples:\n  robotrl sysid bench.csv --model" in capsys.readouterr().out
    monkeypatch.delattr(sysid, "optimize")  # that is what the import leaves then
    assert run(tmp_path, arm(), ARM_PARAMETERS, log_of()) == 2
    assert "pip install 'robotrl[sysid]'" in capsys.readouterr().err


def test_numbers_of_a_model_are_written_where_mujoco_keeps_them(tmp_path: Path) -> None:
    model_file, parameters_file = written(
        tmp_path,
        LEG.format(dt=DT_S, delayed="", **LEG_NOMINAL),
        """
parameters:
  damping: {field: dof_damping, range: [0, 1], shared: false}
  com: {field: body_ipos, names: shank, range: [-1, 1], op: add, shared: false}
  masses: {field: body_mass, names: thigh|shank, range: [0.5, 2], op: scale}
  kp: {field: actuator_kp, names: knee, range: [0, 100]}
  pull: {field: opt.gravity, columns: [2], range: [-10, -9]}
""",
    )
    model = mujoco.MjModel.from_xml_path(str(model_file))
    unknowns = unknowns_of(model, read_parameters(parameters_file))
    assert [each.name for each in unknowns] == [
        "damping_hip", "damping_knee", "com_shank_0", "com_shank_1", "com_shank_2", "masses", "kp", "pull",
    ]  # fmt: skip
    assert [each.nominal for each in unknowns] == [0.1, 0.1, 0.0, 0.0, 0.0, 1.0, 30.0, -9.81]
    changed = with_values(model, unknowns, np.array([0.2, 0.3, 0.01, 0.02, 0.03, 1.5, 44.0, -9.5]))
    np.testing.assert_allclose(changed.dof_damping, [0.2, 0.3])
    np.testing.assert_allclose(changed.body_ipos[2], [0.01, 0.02, -0.09])
    np.testing.assert_allclose(changed.body_mass, [0.0, 1.5, 0.75])
    np.testing.assert_allclose(changed.body_subtreemass[1], 2.25)  # derived constants follow
    np.testing.assert_allclose(changed.actuator_gainprm[:, 0], [30.0, 44.0])
    np.testing.assert_allclose(changed.actuator_biasprm[:, 1:3], [[-30.0, -0.5], [-44.0, -0.5]])
    np.testing.assert_allclose(changed.opt.gravity, [0.0, 0.0, -9.5])
    np.testing.assert_array_equal(model.dof_damping, [0.1, 0.1])


def test_the_identified_model_finds_its_meshes_and_keeps_every_number(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    corners = "\n".join(f"v {x} {y} {z}" for x in (0, 0.1) for y in (0, 0.1) for z in (0, 0.2))
    (tmp_path / "parts" / "link.obj").write_text(corners + "\nf 1 2 3\nf 1 2 5\nf 1 3 5\nf 8 7 6\n")
    model = arm().replace(
        "<worldbody>", '<compiler meshdir="parts"/><asset><mesh file="link.obj"/></asset><worldbody>'
    )
    model = model.replace("</body>", '<geom type="mesh" mesh="link" contype="0" mass="0"/></body>')
    model_file, parameters_file = written(tmp_path, model, ARM_PARAMETERS)
    unknowns = unknowns_of(read_spec(model_file).compile(), read_parameters(parameters_file))
    (tmp_path / "out").mkdir()
    values = np.array([0.123456, 0.0234567, 0.05, 0.9, 0.0071])
    write_model(tmp_path / "out" / "identified.xml", model_file, unknowns, values)
    read = mujoco.MjModel.from_xml_path(str(tmp_path / "out" / "identified.xml"))
    got = [read.dof_damping[0], read.dof_armature[0], read.dof_frictionloss[0], read.body_mass[1]]
    np.testing.assert_allclose([*got, read.actuator_delay[0]], values, rtol=1e-5)
    assert read.nmesh == 1 and read.actuator_history[0, 0] == 4  # 4 steps of 2 ms hold 7.1 ms


def test_a_range_is_cut_where_it_is_said_to_end_and_the_cut_is_said() -> None:
    entry = ModelParameter("dof_damping", (0.0, 1.0), names="knee")
    unknown = Unknown("damping", entry, (0,), (), 0.1, "N m s/rad")
    estimate = Estimate(unknown, 0.1, 0.2, (0.0, 0.5), ("drawn from cut at the lower end",))
    text = realism_yaml([estimate], 2.0)
    assert "# 0.1 +- 0.2 N m s/rad" in text and "# drawn from cut at the lower end" in text
    assert "damping: {field: dof_damping, op: set, names: knee, range: [0.0, 0.5], shared: true}" in text
    assert When.EPISODE.value not in text  # the default


def test_commands_of_a_recording_are_delayed_to_a_share_of_a_step(tmp_path: Path) -> None:
    rows = [f"{0.01 * k:.2f},{float(k >= 10)},0,0" for k in range(30)]
    (tmp_path / "log.csv").write_text(log_of(HEADER, *rows))
    model_file, parameters_file = written(tmp_path, arm(), ARM_PARAMETERS)
    spec = read_spec(model_file)
    unknowns = unknowns_of(spec.compile(), read_parameters(parameters_file))
    recording = Predictor(spec, [read_log(tmp_path / "log.csv")], unknowns).recordings[0]
    assert recording.time_s[0] == 0.04  # the longest delay has passed
    # the step at 0.1 s comes into force at 0.1035 s: a quarter of the physics step that begins at 0.102 s
    commands = recording.commands(np.array([0.0035]))[:, 0]
    np.testing.assert_allclose(commands[:34], [0.0] * 31 + [0.25, 1.0, 1.0], atol=1e-12)


def test_a_deployments_log_says_what_the_csv_file_says(tmp_path: Path) -> None:
    imu = "<sensor><gyro name='imu' site='s'/></sensor>"
    text = LEG.format(dt=DT_S, delayed="", **LEG_NOMINAL).replace("<actuator>", f"{imu}<actuator>")
    text = text.replace('<body name="shank"', '<site name="s"/><body name="shank"')
    text = text.replace('joint="knee" kp', 'joint="knee" gear="2" kp')
    model = mujoco.MjModel.from_xml_string(text)
    layout = Layout(
        "leg",
        (
            Signal("joint_position", "rad", ("knee", "hip")),  # in an order of its own
            Signal("imu", "rad/s", ("0", "1", "2")),
            Signal("battery", "V", ("0",)),
        ),
        ("knee", "hip"),
    )
    frames = []
    for k in range(60):
        kp = 30.0 if 10 <= k < 50 else 0.0  # damped before and after
        rows = np.array([[0.01 * k, 0, 0, kp, 0.5], [-0.02 * k, 0, 0, kp, 0.5]])
        values = np.array([0.1 * k, 0.2 * k, 1.0, 2.0, 3.0, 24.0])
        frames.append(Frame(5.0 + 0.02 * k, "POLICY", values, None if k < 3 else rows, 0.0, 0.0, 0.0))
    write_mcap(tmp_path / "run.mcap", layout, frames)
    log = read_deployment(tmp_path / "run.mcap", model)
    steps = np.arange(10, 50)
    np.testing.assert_allclose(log.time_s, 0.02 * steps, atol=1e-6)
    np.testing.assert_allclose(log.commands["hip"], -0.02 * steps)
    np.testing.assert_allclose(log.commands["knee"], 2 * 0.01 * steps)  # its control is in turns of the motor
    np.testing.assert_allclose(log.signals["joint_position/hip"], 0.2 * steps)
    assert set(log.signals) == {
        "joint_position/hip",
        "joint_position/knee",
        *(f"sensor/imu/{i}" for i in range(3)),
    }
    with pytest.raises(UsageError, match="has commands of hip, knee, the model's actuators are elbow"):
        read_deployment(tmp_path / "run.mcap", mujoco.MjModel.from_xml_string(arm()))
    motors = mujoco.MjModel.from_xml_string(re.sub(r"<position (.*?) kp=.* (/>)", r"<motor \1 \2", text))
    with pytest.raises(UsageError, match="drive 'hip' was commanded what the model's actuator, no servo"):
        read_deployment(tmp_path / "run.mcap", motors)


def test_the_example_identifies_its_arm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "sysid_arm.py"))
    assert example["identify"](tmp_path) == 0
    table = capsys.readouterr().out
    assert "0.01369" in table and "0.08024" in table and "nominal model" in table


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_log(tmp_path / "none.csv")
