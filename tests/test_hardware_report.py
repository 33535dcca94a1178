"""The report's answer to whether a policy is safe to try on hardware, from files made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_report import bare_run

from robotrl.training.report import write_report

ROWS = [["under the policy", "20.0 s at 50 Hz"], ["guard events", "none"]]


def run_with(
    path: Path,
    margin_s: float | None = 0.03,
    doubts: tuple[str, ...] = (),
    deployed: str = "aa",
    robot: bool = True,
) -> Path:
    """A run whose bundle was swept and deployed."""
    bare_run(path)
    (path / "bundle").mkdir()
    contract = {
        "inputs": [], "outputs": [], "control_hz": 50.0, "control_dt_s": 0.02, "policy_sha256": "aa",
        "model_sha256": None, "robot": {"name": "arm"} if robot else None,
    }  # fmt: skip
    (path / "bundle" / "contract.json").write_text(json.dumps(contract))
    if margin_s is not None:
        (path / "bundle" / "robustness.json").write_text(
            json.dumps({"policy_sha256": "aa", "delay_margin_s": margin_s})
        )
        (path / "bundle" / "robustness.png").write_bytes(b"picture")
    (path / "deployments").mkdir()
    for name, policy, said in (("1", deployed, list(doubts)), ("2", "bb", ["of another policy"])):
        record = {"policy_sha256": policy, "robot": "sim", "created": name, "rows": ROWS, "doubts": said}
        (path / "deployments" / f"{name}.json").write_text(json.dumps(record))
    return path


def page(path: Path) -> str:
    return write_report(path).read_text()


def test_all_measured_and_well(tmp_path: Path) -> None:
    text = page(run_with(tmp_path / "run"))
    assert "looks safe" in text and "20.0 s at 50 Hz" in text and "30 ms more" in text
    assert "of another policy" not in text and "data:image/png;base64,cGljdHVyZQ==" in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"doubts": ("a guard had to act (tilt)",)}, "a guard had to act (tilt)"),
        ({"margin_s": 0.01}, "a delay of 10 ms more takes a fifth of the return, one control step is 20 ms"),
    ],
)
def test_what_speaks_against_it_is_told(options, told: str, tmp_path: Path) -> None:
    text = page(run_with(tmp_path / "run", **options))
    assert "not yet" in text and told in text and "looks safe" not in text


@pytest.mark.parametrize(
    ("options", "command"),
    [({"margin_s": None}, "robotrl verify"), ({"deployed": "cc"}, "robotrl deploy RUN/bundle --robot sim")],
)
def test_what_was_not_measured_is_not_judged(options, command: str, tmp_path: Path) -> None:
    text = page(run_with(tmp_path / "run", **options))
    assert "not known yet" in text and command in text and "looks safe" not in text


def test_a_bundle_without_a_robot_has_no_such_section(tmp_path: Path) -> None:
    assert "Safe to try on hardware" not in page(run_with(tmp_path / "run", robot=False))
