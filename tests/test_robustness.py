"""Robustness of a bundle: what a sweep changes, the delay margin by hand, files and exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robotrl.cli import main
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.latency import Delay
from robotrl.sim.randomization import FieldRandomization
from robotrl.tasks.control_suite.pendulum import Pendulum
from robotrl.tasks.control_suite.walker import Walker
from robotrl.tasks.realism import ObservationNoise, Ramp, Realism
from robotrl.tasks.task import Task
from robotrl.training.evaluation import evaluate
from robotrl.training.restore import load_policy_and_config
from robotrl.training.robustness import Robustness, Score, checks, delay_margin_s, measure
from robotrl.training.sweeps import Sweep, changed, parse_sweeps


def walker(**realism: Any) -> Walker:
    return Walker(realism=Realism(**realism))


def param(task: Task, name: str) -> np.ndarray:
    env = VecEnv(task, 3, num_threads=1)
    env.reset()
    return env.sim.param(name).numpy()


def test_reading_sweeps() -> None:
    delay, friction = parse_sweeps("delay=0..40ms, friction=0.5..1.5", 3)
    assert delay == Sweep("delay", (0.0, 0.02, 0.04)) and (delay.unit, delay.nominal) == ("s", 0.0)
    assert friction == Sweep("friction", (0.5, 1.0, 1.5)) and (friction.unit, friction.nominal) == ("1", 1.0)
    assert parse_sweeps("delay=0ms..0.5ms", 2)[0].values == (0.0, 0.0005)
    assert parse_sweeps("delay=0..0.04", 2)[0].values == (0.0, 0.04)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dellay=0..1", "unknown quantity to sweep 'dellay' .*did you mean 'delay'"),
        ("delay", "cannot read the sweep 'delay': write NAME=LOW..HIGH"),
        ("delay=0.04", "cannot read the sweep"),
        ("delay=0.04..0", "cannot read the sweep"),
        ("delay=-1..1", "cannot read the sweep"),
        ("delay=0s..4ms", "cannot read the sweep"),
        ("mass=1ms..2ms", "cannot read the sweep"),
        ("mass=1.0.0..2", "cannot read the sweep"),
        ("mass=1..2,mass=2..3", "every quantity can be swept once, got mass, mass"),
    ],
)
def test_unreadable_sweeps(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_sweeps(text, 5)


def test_delay_is_added_to_every_actuator() -> None:
    task = walker()
    assert changed(task, Sweep("delay", ()), 0.0) == task
    names = [term.name for term in task.specs(task.build_model()).action]
    delayed = changed(task, Sweep("delay", ()), 0.0125)
    assert (param(delayed, "actuator_delay") == 0.0125).all()
    partly = walker(
        actuator_delays={"knees": Delay((0.0, 0.0), ".*knee")},
        curriculum={"k": Ramp("actuator_delays.knees.range_s", [0.0, 0.0], [0.0, 0.0])},
    )
    assert (param(changed(partly, Sweep("delay", ()), 0.01), "actuator_delay") == 0.01).all()
    ramped = walker(
        actuator_delays={"knees": Delay((0.0, 0.0), ".*knee", buffer_s=0.02)},
        curriculum={"k": Ramp("actuator_delays.knees.range_s", [0.0, 0.0], [0.02, 0.02])},
    )
    knees = np.array(["knee" in name for name in names])
    delays = param(changed(ramped, Sweep("delay", ()), 0.01), "actuator_delay")
    np.testing.assert_allclose(delays, np.where(knees, 0.03, 0.01)[None].repeat(3, 0), atol=1e-12)


def test_factors_multiply_what_the_task_draws() -> None:
    for name, field in (("friction", "geom_friction"), ("mass", "body_mass"), ("mass", "body_inertia")):
        nominal = param(walker(randomize={"x": FieldRandomization(field, (2.0, 2.0))}), field)
        task = walker(randomize={"x": FieldRandomization(field, (2.0, 2.0))})
        np.testing.assert_allclose(
            param(changed(task, Sweep(name, ()), 0.7), field), 0.7 * nominal, rtol=1e-12
        )
    noise = {"n": ObservationNoise(std=0.1, half_width=0.2, bias=(-0.5, 1.0), dropout=0.3)}
    louder = changed(walker(observation_noise=noise), Sweep("noise", ()), 2.0).realism.observation_noise
    assert louder == {"n": ObservationNoise(std=0.2, half_width=0.4, bias=(-1.0, 2.0), dropout=0.3)}
    with pytest.raises(UsageError, match="no observation noise that could be scaled"):
        changed(walker(), Sweep("noise", ()), 2.0)


def scores(*means: float | None) -> list[Score]:
    return [Score(mean, mean, mean, 0) for mean in means]


def test_delay_margin_by_hand() -> None:
    values = (0.0, 0.01, 0.02, 0.03)
    for nominal, means, margin in (
        (100.0, (100.0, 90.0, 80.1, 79.0), 0.02),
        (100.0, (100.0, 70.0, 95.0, 95.0), 0.0),  # up to it, not at it
        (100.0, (100.0, 99.0, 98.0, 97.0), 0.03),
        (-100.0, (-100.0, -110.0, -119.0, -121.0), 0.02),
        (100.0, (100.0, None, 95.0, 95.0), 0.0),
        (100.0, (100.0, 80.0, 95.0, 95.0), 0.0),  # has to stay above
    ):
        assert delay_margin_s(scores(nominal)[0], values, scores(*means)) == margin


def test_what_has_to_hold() -> None:
    def passed(other: Score, nominal: Score | None = None, **more: Any) -> list[bool]:
        sims = {"cpu": nominal or Score(100.0, 95.0, 105.0, 0), "warp": other}
        result = Robustness(20, 0, sims, {"delay": {"values": (0.0, 0.04)}}, 0.01)
        return [check.passed for check in checks(result, **more)]

    assert passed(Score(109.0, 104.0, 114.0, 0)) == [True, True, True]
    assert passed(Score(111.0, 106.0, 116.0, 0)) == [True, False, True]
    assert passed(Score(125.0, 95.0, 155.0, 0)) == [True, True, True]  # its interval is that wide
    assert passed(Score(100.0, 95.0, 105.0, 1)) == [True, False, True]
    assert passed(Score(None, None, None, 20)) == [True, False, True]
    assert passed(scores(100.0)[0], Score(100.0, 95.0, 105.0, 2)) == [False, True, True]
    assert passed(scores(100.0)[0], Score(None, None, None, 20)) == [False, False, True]
    assert passed(scores(100.0)[0], required_delay_margin_s=0.01) == [True, True, True]
    assert passed(scores(100.0)[0], required_delay_margin_s=0.02) == [True, True, False]


def test_the_bundle_scores_what_its_policy_does(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    policy, config = load_policy_and_config(trained)
    assert isinstance(config.task, Pendulum)
    told: list[str] = []
    result = measure(trained / "bundle", ["cpu"], [Sweep("mass", (0.5, 1.0))], 6, 4, told.append)
    expected = evaluate(policy, config.task, 6, 4)
    nominal = result.simulators["cpu"]
    assert nominal.mean == pytest.approx(expected.mean, rel=1e-4)
    assert (nominal.low, nominal.high) == pytest.approx(expected.interval(), rel=1e-4)
    lighter, same = result.sweeps["mass"]["scores"]
    assert same == nominal and lighter != nominal and result.delay_margin_s is None
    assert [line.partition(":")[0] for line in told] == ["cpu", "mass 0.5"]
    for sims, episodes, message in (
        (["gpu"], 2, "unknown simulator 'gpu'"),
        (["cpu", "warp"], 2, "--sim warp needs a CUDA GPU and torch sees none: use cpu, or warp_cpu"),
        (["cpu"], 1, "--episodes must be at least 2, got 1"),
    ):
        with pytest.raises(RobotrlError, match=message):
            measure(trained / "bundle", sims, [], episodes)


def test_on_the_command_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Path(shutil.copytree(trained / "bundle", tmp_path / "b"))
    words = ["verify", str(bundle), "--episodes", "3", "--points", "2", "--sweep"]
    assert main([*words, "delay=0..40ms,friction=0.5..1.5"]) == 0
    out = capsys.readouterr()
    assert "return in cpu" in out.out and "delay margin" in out.out and "wrote" in out.err
    found = json.loads((bundle / "robustness.json").read_text())
    assert found["episodes"] == 3 and found["sweeps"]["delay"]["values"] == [0.0, 0.04]
    assert found["sweeps"]["delay"]["scores"][0] == found["simulators"]["cpu"]
    assert (bundle / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert main([*words, "delay=0..40ms", "--require-delay-margin", "0.5"]) == 1
    assert "1 of 8 checks failed: delay margin" in capsys.readouterr().err
    other = tmp_path / "out"
    assert main([*words, "delay=0..1ms", "--out", str(other)]) == 0
    assert sorted(file.name for file in other.iterdir()) == ["robustness.json", "robustness.png"]
    before = [file.read_bytes() for file in sorted(other.iterdir())]
    assert main([*words, "delay=0..1ms", "--out", str(other)]) == 2  # nothing of the user's is replaced
    assert [file.read_bytes() for file in sorted(other.iterdir())] == before
    capsys.readouterr()
    for more, message in (
        (["--out", "x"], "--out is for what --sim, --episodes and --sweep measure"),
        (["--seed", "5"], "--seed is for what --sim, --episodes and --sweep measure"),
        (["--points", "3", "--episodes", "2"], "--points is how many values --sweep tries"),
        (["--sweep", ""], "--sweep is empty"),
        (["--sweep", "delay=0..40ms", "--require-delay-margin", "nan"], "must be above 0 s, got nan"),
        (["--require-delay-margin", "1"], "--require-delay-margin needs --sweep delay"),
        (["--sweep", "noise=0..2"], "no observation noise that could be scaled"),
    ):
        assert main(["verify", str(bundle), *more]) == 2
        assert message in capsys.readouterr().err
