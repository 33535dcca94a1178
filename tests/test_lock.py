"""A run has one writer: told by a real second process, and free again however that one ends."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.training.lock import LOCK_FILE, training_lock

HOLDER = """
import sys
from pathlib import Path
from robotrl.training.lock import training_lock
with training_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def holder(run: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until its stdin ends."""
    command = [sys.executable, "-c", HOLDER, str(run)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    first = holder(tmp_path)
    with pytest.raises(UsageError) as caught, training_lock(tmp_path):
        pass
    found = re.fullmatch(
        rf"run {tmp_path} is being trained by process {first.pid} on {platform.node()} since (.+): "
        "wait for its end, or stop it first",
        str(caught.value),
    )
    assert found is not None, caught.value
    assert 0 <= (datetime.now(UTC) - datetime.fromisoformat(found[1])).total_seconds() < 60
    first.communicate("")
    assert list(tmp_path.iterdir()) == []
    with training_lock(tmp_path):
        pass


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_the_kernel_frees_the_lock_of_a_process_that_was_killed(ending: int, tmp_path: Path) -> None:
    first = holder(tmp_path)
    first.send_signal(ending)
    first.communicate()
    assert (tmp_path / LOCK_FILE).is_file(), "it had no time to remove it"
    with training_lock(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")
        with pytest.raises(UsageError, match=f"process {os.getpid()} "), training_lock(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), training_lock(tmp_path):
        _ = 1 / 0
    with training_lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    with (
        pytest.raises(RobotrlError, match=r"^cannot lock run .* with training\.lock: Is a directory$"),
        training_lock(tmp_path),
    ):
        pass
