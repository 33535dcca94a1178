"""Which commit of robotrl is running."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

_CHECKOUT = Path(__file__).resolve().parents[2]


def git_state() -> dict[str, Any]:
    """Return `git_commit` and `git_dirty` of the checkout robotrl runs from.

    Empty where it is installed as a package, also if that lies inside somebody else's repository.
    """
    if not (_CHECKOUT / ".git").exists():
        return {}
    try:
        return {
            "git_commit": _git("rev-parse", "HEAD"),
            "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_CHECKOUT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
