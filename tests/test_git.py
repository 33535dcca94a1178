"""The commit that is reported is robotrl's own, or none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from robotrl.core import git


def repository(folder: Path) -> str:
    """Make a repository with one commit; return the commit."""
    folder.mkdir()
    (folder / "file").write_text("one")
    name = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "file"], [*name, "commit", "-q", "-m", "x"], ["rev-parse", "HEAD"]):
        done = subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_commit_and_changes_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = repository(tmp_path / "robotrl")
    monkeypatch.setattr(git, "_CHECKOUT", tmp_path / "robotrl")
    assert git.git_state() == {"git_commit": commit, "git_dirty": False}
    (tmp_path / "robotrl" / "new").write_text("not tracked")
    assert git.git_state()["git_dirty"] is False
    (tmp_path / "robotrl" / "file").write_text("two")
    assert git.git_state() == {"git_commit": commit, "git_dirty": True}


def test_an_installed_package_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if it lies in the virtual environment inside a repository of its user."""
    repository(tmp_path / "users")
    site = tmp_path / "users" / "site-packages"
    site.mkdir()
    monkeypatch.setattr(git, "_CHECKOUT", site)
    assert git.git_state() == {}
    (site / ".git").write_text("damaged")
    assert git.git_state() == {}


def test_a_machine_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(git, "_CHECKOUT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.git_state() == {}
