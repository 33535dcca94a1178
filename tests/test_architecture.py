"""The rules of the house that a program can check: imports run downhill, files stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import robotrl

PACKAGE = Path(robotrl.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400

# part -> the parts that it may import besides itself
ALLOWED = {
    "core": set(),
    "sim": {"core"},
    "tasks": {"core", "sim"},
    "envs": {"core", "sim", "tasks"},
    "networks": {"core"},
    "data": {"core"},
    "policies": {"core", "networks"},
    "algorithms": {"core", "networks", "policies", "data"},
    "deploy": {"core"},
    "export": {"core", "sim", "tasks", "envs", "policies", "deploy"},
    "training": {
        "core", "sim", "tasks", "envs", "networks", "data", "policies", "algorithms", "deploy", "export",
    },
    "compose": {"core"},
    "api": {"core", "sim", "tasks", "envs", "policies", "deploy", "training", "compose"},
    "cli": {"core", "compose", "envs", "training", "deploy", "export", ""},
    "gym": {"compose", "envs"},
    "registration": {"core"},
    "": {"api", "registration"},
    "__main__": {"cli"},
}  # fmt: skip


def part_of(file: Path) -> str:
    """Name of the part a file belongs to; "" for the package's own __init__."""
    first = file.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [alias.name for alias in node.names]
            if node.module != "robotrl":
                yield node.module or ""
            elif names != ["__version__"]:  # any part may ask for the version
                yield from (f"robotrl.{name}" for name in names)


def test_every_part_has_its_place() -> None:
    assert {part_of(file) for file in FILES} <= set(ALLOWED)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_file_keeps_the_rules(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    part = part_of(file)
    for module in imported_modules(tree):
        top, _, rest = module.partition(".")
        if top == "robotrl":
            other = rest.partition(".")[0]
            assert other == part or other in ALLOWED[part], f"{part or 'robotrl'} must not import {module}"
        assert top != "hydra" or part == "compose", "only compose.py knows Hydra"
    assert text.count("\n") <= MAX_LINES
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    assert part == "cli" or "print" not in names, "a library does not print"
    attributes = {ast.unparse(call) for call in calls if isinstance(call, ast.Attribute)}
    assert not attributes & {"torch.load", "pickle.load", "pickle.loads"}, "never load pickles"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_public_functions_are_documented(file: Path) -> None:
    def visit(node: ast.AST, path: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
                if "overload" in map(ast.unparse, child.decorator_list):
                    continue
                if ast.get_docstring(child) is None:
                    yield f"{path}{child.name}"
                if isinstance(child, ast.ClassDef):
                    yield from visit(child, f"{path}{child.name}.")

    assert list(visit(ast.parse(file.read_text(encoding="utf-8")), "")) == []


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `code`."""
    script = (
        f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


HEAVY = {"torch", "mujoco", "numpy", "gymnasium", "onnxruntime"}


@pytest.mark.parametrize(
    "code",
    [
        "import robotrl; robotrl.__version__",
        "from robotrl.cli import main; main(['--help'])",
        "from robotrl.cli import main; main(['list', 'tasks', '--json'])",
        "import robotrl.compose",
    ],
)
def test_what_must_be_quick_imports_nothing_heavy(code: str) -> None:
    assert not loaded_by(code) & HEAVY


def test_deployment_needs_neither_torch_nor_mujoco() -> None:
    files = sorted((PACKAGE / "deploy").rglob("[!_]*.py"))
    modules = [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files]
    assert "robotrl.deploy.runtime.robots.udp" in modules
    modules.remove("robotrl.deploy.ros2.node")  # imports ROS 2, which PyPI has not
    modules.append("robotrl.cli.deploy")
    assert not loaded_by(f"import {', '.join(modules)}") & {"torch", "mujoco", "hydra", "omegaconf"}


def test_help_answers_in_half_a_second() -> None:
    command = [sys.executable, "-m", "robotrl", "--help"]

    def once() -> float:
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert "usage: robotrl" in done.stdout
        return time.perf_counter() - start

    # the best of a few: other tests run at the same time
    assert min(once() for _ in range(5)) < 0.5
