"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from robotrl.core.files import new_folder, write_aside, write_text_aside


def test_a_name_holds_the_old_or_the_new_content(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text_aside(path, "old")
    seen: list[str] = []

    def write(aside: Path) -> None:
        aside.write_text("half")
        seen.append(path.read_text())
        aside.write_text("new ü")

    write_aside(path, write)
    assert seen == ["old"] and path.read_text(encoding="utf-8") == "new ü"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("x"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_an_error_leaves_nothing_behind(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise error

    def write(aside: Path) -> None:
        aside.write_text("new")
        if step == "write":
            raise error

    if step != "write":
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        write_aside(path, write)
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "old"


def test_a_folder_that_somebody_makes_in_the_last_moment_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)  # it is made after it was looked for
    folder = tmp_path / "a"
    with pytest.raises(FileExistsError, match="a exists"), new_folder(folder) as aside:
        (aside / "mine").touch()
        folder.mkdir()
        (folder / "theirs").touch()
    assert sorted(tmp_path.rglob("*")) == [folder, folder / "theirs"]
