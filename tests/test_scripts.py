"""The scripts that gather results: what they write is complete, true and free of the machine's folders."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from robotrl.compose import compose
from robotrl.core.errors import UsageError
from robotrl.training.run_folder import RunFolder, write_json

sys.path.append(str(Path(__file__).parent.parent / "scripts"))
import bench_common
import bench_juggle
import collect_runs
from bench_juggle import CONDITIONS


def finished_run(root: Path, seed: int, mean: float | None) -> RunFolder:
    """A run of the quickstart recipe as its evaluation leaves it, never trained."""
    run = RunFolder.create(compose(["recipe=quickstart", f"seed={seed}", f"runs_dir={root}/runs"]))
    evaluated = "" if mean is None else f"{mean},{mean - 1},{mean + 1}"
    run.metrics_file.write_text(
        "env_steps,wall_s,loss/policy,eval/return,eval/return_low,eval/return_high\n"
        f"1000,1.5,0.1,,,\n2000,3.5,0.1,{evaluated or ',,'}\n"
    )
    run.evaluation.mkdir()
    interval = {"ci_low": mean and mean - 1, "ci_high": mean and mean + 1}
    write_json(run.evaluation / "summary.json", {"mean": mean, **interval, "episodes": 2})
    command = f"robotrl train recipe=quickstart runs_dir={root}/runs task.mjcf=/usr/share/arm.xml"
    versions = json.loads((run.path / "versions.json").read_text())
    write_json(run.path / "versions.json", versions | {"command": f"{command} seed={seed}"})
    return run


def collect(monkeypatch: pytest.MonkeyPatch, out: Path, *runs: RunFolder) -> str:
    """What the script writes."""
    words = ["collect_runs.py", *(str(run.path) for run in runs), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    collect_runs.main()
    return out.read_text()


def test_runs_are_collected_by_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [finished_run(tmp_path, seed, mean) for seed, mean in ((1, 800.0), (0, 900.0))]
    text = collect(monkeypatch, tmp_path / "out.json", *runs)
    content = json.loads(text)
    assert (content["recipe"], content["seeds"]) == ("quickstart", [0, 1])
    assert (content["return_mean"], content["return_min"], content["training_s_max"]) == (850, 800, 3.5)
    point = {"env_steps": 2000, "wall_s": 3.5, "return": 900, "ci_low": 899, "ci_high": 901}
    assert content["runs"][0]["curve"] == [point]
    line = "seed 0: return 900.0 [899.0, 901.0] after 2,000 steps in 4 s\n"
    assert capsys.readouterr().out.startswith(line)

    assert str(tmp_path) not in text and "/usr" not in text
    command = "robotrl train recipe=quickstart runs_dir=runs task.mjcf=arm.xml seed=0"
    assert content["runs"][0]["versions"]["command"] == command


def test_a_run_without_a_sound_episode_is_listed_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [finished_run(tmp_path, seed, mean) for seed, mean in ((0, 900.0), (1, None))]
    content = json.loads(collect(monkeypatch, tmp_path / "out.json", *runs))
    assert (content["return_mean"], content["return_min"]) == (None, None)
    assert [run["evaluation"]["mean"] for run in content["runs"]] == [900, None]
    assert content["runs"][1]["curve"] == []
    told = capsys.readouterr().out.splitlines()[1]
    assert told == "seed 1: no return, every episode diverged, after 2,000 steps in 4 s"


def test_paths_in_a_command_are_shortened() -> None:
    command = "robotrl train --resume /home/me/work/runs/a/b/c target=x.Y hidden=[/opt/a,/home/me/work/b]"
    short = collect_runs.without_machine_paths(command, Path("/home/me/work"))
    assert short == "robotrl train --resume runs/a/b/c target=x.Y hidden=[a,b]"


def test_what_juggling_calls_unseen_was_not_in_its_training() -> None:
    conditions = {name: compose([*bench_juggle.FINE, *words]).task for name, words in CONDITIONS.items()}
    trained, unseen = conditions["training"].realism, conditions["unseen"].realism
    assert trained == compose(["recipe=juggle_ppo"]).task.realism
    assert unseen.actuator_delays["link"].range_s[0] >= trained.actuator_delays["link"].range_s[1]
    assert unseen.restitution["ball"].range[0] < trained.restitution["ball"].range[0]
    for name in ("ball", "speeds"):
        assert unseen.observation_noise[name].std > trained.observation_noise[name].std
    assert unseen.action_noise > trained.action_noise
    assert conditions["light"].realism == unseen and conditions["light"].ball_mass_kg == 0.005
    assert all(task.physics_dt_s == 0.001 for task in conditions.values())


def test_a_benchmark_goes_on_with_its_own_run_only(tmp_path: Path) -> None:
    words = ["recipe=stream_ac", "task=cartpole_balance", "total_steps=40", "export=false", "eval_episodes=1"]
    run = bench_common.trained(tmp_path / "b", "streams.json", *words)
    assert bench_common.trained(tmp_path / "b", "streams.json", *words) == run
    with pytest.raises(UsageError, match="other options"):
        bench_common.trained(tmp_path / "b", "streams.json", *words, "algorithm.gamma=0.9")
