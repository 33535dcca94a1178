"""Compiled kernels: kept on disk by their text, compiled when a learner starts or is loaded; their draws."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import robotrl
from robotrl.algorithms.streaming.compiled import fill_normal, random_state


def test_kernels_are_kept_by_their_text_and_compile_without_a_folder(tmp_path: Path) -> None:
    """In processes of their own, with a copy of the package whose kernel changes."""
    package = tmp_path / "robotrl"
    shutil.copytree(Path(robotrl.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    rules = package / "algorithms" / "streaming" / "rules"
    start = "from robotrl.algorithms.streaming.compiled import kernel\n"
    inner = "from robotrl.algorithms.streaming.rules.inner import inner\n"
    (rules / "outer.py").write_text(f"{start}{inner}@kernel\ndef outer(x):\n    return inner(x)\n")
    program = "from robotrl.algorithms.streaming.rules.outer import outer; print(outer(1))"

    def answer(value: int, cache: Path) -> subprocess.CompletedProcess[str]:
        (rules / "inner.py").write_text(f"{start}@kernel\ndef inner(x):\n    return x * {value}\n")
        environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            cwd=tmp_path,  # where the copy is found first
        )

    assert [answer(value, tmp_path / "kept").stdout for value in (3, 3, 5)] == ["3\n", "3\n", "5\n"]
    assert len(list((tmp_path / "kept" / "robotrl" / "kernels").iterdir())) == 2
    (tmp_path / "file").write_text("")  # no folder can be made in it
    done = answer(7, tmp_path / "file")
    assert done.stdout == "7\n" and "compiled kernels cannot be kept in" in done.stderr


def test_loading_compiles_as_starting_does() -> None:
    """In a process of its own, where nothing is compiled yet."""
    program = """
import sys
import numpy as np
from robotrl.algorithms.streaming.actor_critic import StreamAC
from robotrl.algorithms.streaming.actor_critic_kernel import advance
from robotrl.algorithms.streaming.config import StreamACConfig
first, second = (StreamAC(5, 3, 2, StreamACConfig(hidden=[16, 16]), seed) for seed in (1, 2))
second.load_state_dict(first.state_dict())
loaded = len(advance.signatures)
second.update(0.0, False, False, np.zeros((2, 5)))
sys.exit(0 if loaded == len(advance.signatures) == 1 else 1)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_normal_draws_are_normal() -> None:
    draws = np.zeros(200_001)
    fill_normal(random_state(0, 1)[0], draws)
    # standard errors: mean 0.0022, variance 0.0032, fourth moment 0.022
    assert abs(draws.mean()) < 0.01 and abs(draws.var() - 1) < 0.015 and abs((draws**4).mean() - 3) < 0.1
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.01
