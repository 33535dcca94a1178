"""The report, from a run folder made by hand."""

import csv
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.training.charts import Axis, Series, histogram, line_chart
from robotrl.training.report import _phases, duration, write_report

CONFIG = """
task_name: walker_walk
seed: 3
target_return: 800.0
task:
  _target_: robotrl.tasks.control_suite.walker.Walker
  move_speed_m_s: 1.0
algorithm:
  _target_: robotrl.algorithms.on_policy.ppo.PPO
  learning_rate: 0.0003
policy:
  _target_: robotrl.policies.gaussian.GaussianPolicy
  note: "<script>alert(1)</script>"
"""


def write_csv(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def bare_run(path: Path) -> Path:
    path.mkdir()
    (path / "config.yaml").write_text(CONFIG)
    (path / "metrics.csv").write_text("env_steps,wall_s\n")
    return path


def full_run(path: Path) -> Path:
    bare_run(path)
    rng = np.random.default_rng(0)
    names = ["episode/return", "reward/stand", "reward/move", "eval/return", "eval/return_low"]
    names += [
        "eval/return_high",
        "loss/policy",
        "loss/value",
        "policy/entropy",
        "policy/kl",
        "episode/length",
    ]
    names += ["time/env_steps_per_s", "time/simulation_s", "time/policy_s", "time/update_s", "time/other_s"]
    rows = []
    for i in range(400):
        ret = 950 / (1 + math.exp(-(i - 150) / 40)) + 15 * rng.normal()
        evaluation = [ret + 20, ret - 15, ret + 60] if i % 50 == 49 else [""] * 3
        losses = [0.1 * rng.normal(), 3 * math.exp(-i / 100) + 0.1 * rng.random(), 6 - i / 80]
        times = [21000 + 500 * rng.normal(), 0.3 * i, 0.05 * i, 0.3 * i, 0.1 * i]
        terms = [0.3 * ret, 0.7 * ret]
        row = [ret, *terms, *evaluation, *losses, 0.01 + 0.002 * rng.random(), 1000, *times]
        rows.append([(i + 1) * 16384, 0.75 * (i + 1), *row])
    write_csv(path / "metrics.csv", ["env_steps", "wall_s", *names], rows)
    versions = {
        "robotrl": "0.1.0",
        "python": "3.11.2",
        "torch": "2.13.0",
        "git_commit": "64ab84f0d7",
        "git_dirty": True,
        "machine": "Linux x86_64 Xeon",
        "cpus": 2,
        "started_utc": "2026-11-21T02:00:00+00:00",
        "command": "robotrl train recipe=quickstart seed=3",
    }
    (path / "versions.json").write_text(json.dumps(versions))
    (path / "evaluation").mkdir()
    summary = {
        "mean": 943.21,
        "ci_low": 930.5,
        "ci_high": 955.1,
        "episodes": 32,
        "seed": 1000,
        "env_steps": 1,
    }
    (path / "evaluation" / "summary.json").write_text(json.dumps(summary))
    episodes = [[i, 943 + 20 * rng.normal(), 1000, False] for i in range(32)]
    write_csv(path / "evaluation" / "episodes.csv", ["episode", "return", "length", "terminated"], episodes)
    (path / "bundle").mkdir()
    contract = {
        "inputs": [{"name": "height"}],
        "outputs": [{"name": "hip"}, {"name": "knee"}],
        "control_hz": 40.0,
        "policy_sha256": "abcdef0123456789",
        "model_sha256": "fedcba9876543210",
    }
    (path / "bundle" / "contract.json").write_text(json.dumps(contract))
    checks = [
        {"name": "golden vectors", "passed": True, "detail": "max abs error 2e-07 over 64 observations"},
        {"name": "closed loop", "passed": False, "detail": "max abs error 0.5"},
    ]
    (path / "bundle" / "verification.json").write_text(json.dumps(checks))
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "step_000006553600.safetensors").write_bytes(bytes(2_000_000))
    (path / "video.mp4").write_bytes(b"not really a video")
    return path


class Page(HTMLParser):
    """Collects tags, and text outside script and style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_report_shows_everything_a_run_has(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run")
    path = write_report(run)
    assert path == run / "report.html"
    html = path.read_text()
    page = Page(html)
    for text in (
        "walker_walk",
        "ppo · seed 3",
        "943.2",
        "95 % interval 930.5 to 955.1 · 32 episodes",
        "reached the target of 800",
        "6.554M",  # env steps: 400 * 16384
        "5 min 00 s",  # wall time: 400 * 0.75 s
        "21.85k",  # steps per second
        "simulation 40.0 % · 2 min 00 s",
        "policy 6.7 %",
        "loss/value",
        "policy/kl",
        "All 32 episodes",
        "golden vectors",
        "max abs error 0.5",
        "failed",
        "1 observation terms in, 2 actuator commands out, 40 Hz",
        "robotrl train recipe=quickstart seed=3",
        "64ab84f0d7 with uncommitted changes",
        "Linux x86_64 Xeon",
        "step_000006553600.safetensors",
        "move_speed_m_s",
    ):
        assert text in page.text, text
    assert page.all("video")[0]["src"] == "data:video/mp4;base64,bm90IHJlYWxseSBhIHZpZGVv"
    assert not list(run.glob(".report*"))


def test_rates_are_no_phases() -> None:
    last = {"time/offline_updates_per_s": 130.0, "time/env_steps_per_s": 9.0, "time/update_s": 5.0}
    assert _phases(last) == [{"name": "update", "s": 5.0, "share": 1.0}]


def test_report_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = Page(write_report(full_run(tmp_path / "run")).read_text())
    sources = [
        tag.get(key) for _, tag in page.tags for key in ("src", "href", "srcset", "data") if key in tag
    ]
    assert all(source and source.startswith("data:") for source in sources)
    assert not page.all("link")
    assert "url(" not in (tmp_path / "run" / "report.html").read_text()


def test_report_escapes_what_users_wrote(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run")
    poison = "<img src=x onerror=alert(2)>"
    versions = json.loads((run / "versions.json").read_text())
    (run / "versions.json").write_text(json.dumps({**versions, "command": poison}))
    metrics = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(metrics.replace("reward/stand", "reward/'\"" + poison))
    page = Page(write_report(run).read_text())
    assert len(page.all("script")) == 1  # the page's own
    assert not page.all("img")
    assert "<script>alert(1)</script>" in page.text
    assert page.text.count(poison) == 2  # the command and the legend
    hover = [json.loads(svg["data-series"] or "") for svg in page.all("svg") if "data-series" in svg]
    assert "'\"" + poison in [series["name"] for chart in hover for series in chart]


def test_curves_show_the_logged_numbers(tmp_path: Path) -> None:
    run = bare_run(tmp_path / "run")
    header = ["env_steps", "wall_s", "episode/return", "eval/return", "eval/return_low", "eval/return_high"]
    rows = [[100, 1, 5, "", "", ""], [200, 2, "nan", 8, 7, 9], [300, 3, 10, "", "", ""]]
    write_csv(run / "metrics.csv", header, rows)
    page = Page(write_report(run).read_text())
    training, evaluation = json.loads(page.all("svg")[0]["data-series"] or "")
    assert (training["x"], training["y"]) == (["100", "300"], ["5", "10"])
    assert (evaluation["x"], evaluation["y"]) == (["200"], ["8"])
    assert evaluation["interval"] == ["7 to 9"]


def test_report_of_a_run_that_has_only_begun(tmp_path: Path) -> None:
    page = Page(write_report(bare_run(tmp_path / "run")).read_text())
    for text in (
        "not evaluated yet",
        "No episode has ended yet.",
        "No evaluation in this run",
        "No video in this run",
        "No timing was logged.",
        "Nothing was exported",
        "No versions were recorded.",
        "No checkpoint yet.",
    ):
        assert text in page.text, text


@pytest.mark.parametrize(
    "name",
    ["versions.json", "metrics.csv", "evaluation/summary.json", "evaluation/episodes.csv", "config.yaml"],
)
def test_damaged_file_is_named_and_the_old_report_stays(tmp_path: Path, name: str) -> None:
    run = full_run(tmp_path / "run")
    before = write_report(run).read_text()
    file = run / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] + b"\n{]:\xff,")
    with pytest.raises(RobotrlError, match=re.escape(str(file))):
        write_report(run)
    assert (run / "report.html").read_text() == before


def test_missing_field_is_named(tmp_path: Path) -> None:
    run = full_run(tmp_path / "run")
    (run / "evaluation" / "summary.json").write_text('{"mean": 3.0}')
    with pytest.raises(RobotrlError, match="ci_low"):
        write_report(run)


def test_missing_run_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="not a run folder"):
        write_report(tmp_path)
    run = bare_run(tmp_path / "run")
    (run / "metrics.csv").unlink()
    with pytest.raises(UsageError, match=r"no metrics\.csv"):
        write_report(run)


def test_axis_ticks_are_round() -> None:
    axis = Axis(0.0, 100.0, 50.0, 250.0)
    assert axis(25.0) == 100.0
    assert axis.ticks(5) == [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    assert Axis(-0.03, 0.05, 0.0, 1.0).ticks(4) == pytest.approx([-0.02, 0.0, 0.02, 0.04])


def test_long_curves_are_averaged_in_windows() -> None:
    x = np.arange(600.0)
    svg = line_chart([Series("a", x, 2 * x)])
    tips = json.loads(re.search(r'data-series="([^"]*)"', svg).group(1).replace("&#34;", '"'))
    assert len(tips[0]["at"]) == 300
    assert tips[0]["x"][:2] == ["0.5", "2.5"]
    assert tips[0]["y"][:2] == ["1", "5"]


@pytest.mark.parametrize("y", [[0.0], [5.0, 5.0], [-1e-12, 1e12], [1e-300, 2e-300]])
def test_charts_of_odd_values_are_finite(y: list[float]) -> None:
    svg = line_chart([Series("a", np.arange(float(len(y))), np.array(y))])
    assert "nan" not in svg and "inf" not in svg
    assert "nan" not in histogram(np.array(y))


def test_histogram_counts_every_value() -> None:
    titles = re.findall(r"<title>(\d+) from", histogram(np.array([1.0, 1.0, 2.0, 9.0])))
    assert sum(map(int, titles)) == 4
    assert [int(count) for count in titles] == [3, 0, 0, 1]


def test_durations_read_like_a_clock() -> None:
    assert [duration(s) for s in (0.25, 59.4, 119.7, 3599.9, 7500)] == [
        "0.2 s",
        "59 s",
        "2 min 00 s",
        "1 h 00 min",
        "2 h 05 min",
    ]
