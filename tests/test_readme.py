"""What README.md and docs/ show is true: code runs, commands are understood, links lead somewhere."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robotrl.cli import main
from robotrl.compose import compose
from robotrl.core.config import from_yaml
from robotrl.training.train import make_loop

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "my_robot"
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
IDS = [page.name for page in PAGES]

sys.path.append(str(ROOT / "scripts"))
from make_task_table import SIZES, TABLE, sizes_text, task_sizes, task_table  # noqa: E402


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def one_cpu() -> Iterator[None]:
    """Trainings this small only wait for each other's threads, and other tests run beside these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0})
        yield


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_runs(page: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions print what they show, programs run, and indented excerpts are of the example package."""
    monkeypatch.chdir(tmp_path)
    if "compile_policy" in page.read_text():
        assert main(["export", str(trained), "--format", "onnx,c", "--out", "bundle"]) == 0
    else:
        shutil.copytree(trained / "bundle", tmp_path / "bundle")
    shutil.copytree(trained, tmp_path / "RUN")
    names: dict[str, object] = {}
    for number, code in enumerate(blocks(page, "python")):
        name = f"{page.name}, block {number}"
        if code.startswith(">>>"):
            session = doctest.DocTestParser().get_doctest(code, names, name, str(page), 0)
            report: list[str] = []
            doctest.DocTestRunner().run(session, out=report.append, clear_globs=False)
            assert not report, "".join(report)
            names = session.globs  # the next block continues with these
        elif code.startswith(" "):
            assert code in (EXAMPLE / "my_robot" / "__init__.py").read_text()
        else:
            exec(compile(code, name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_work(
    page: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Training is composed, and given its data; everything else really runs, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLE)
    copy = shutil.copytree(trained, tmp_path / "RUN")
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in "".join(blocks(page, "console")).splitlines():
        assert line.startswith("$ "), line
        program, *words = shlex.split(line.removeprefix("$ "))
        if program == "make":
            assert words[0] in targets
        elif program == "cd":
            assert (ROOT / words[0]).is_dir()
        else:
            assert program == "robotrl"
            if "--resume" in words:
                shutil.rmtree(copy / "evaluation")  # as if it had been stopped before its end
            composes = words[0] == "train" and not {"--resume", "--cfg"} & set(words)
            if composes and any(word.startswith("data=") and word != "data=null" for word in words):
                make_loop(compose(words[1:]))  # what the page recorded is there, and of that task
            assert main([*words, "--cfg"] if composes else words) == 0, f"{line}\n{capsys.readouterr().err}"
    assert from_yaml(copy / "config.yaml") == from_yaml(trained / "config.yaml")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_map_names_every_folder() -> None:
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"^\| `([\w/]+)` \|", text, re.MULTILINE))
    parts = {f"robotrl/{file.parent.name}" for file in (ROOT / "robotrl").glob("*/__init__.py")}
    shipped = {"configs", "assets", "scripts", "benchmarks", "docs", "examples", "tests"}
    assert named == parts | shipped


def test_task_table_and_sizes_are_current() -> None:
    sizes = task_sizes()
    assert TABLE.read_text(encoding="utf-8") == task_table(sizes), "run python scripts/make_task_table.py"
    assert SIZES.read_text(encoding="utf-8") == sizes_text(sizes), "run python scripts/make_task_table.py"
