"""robotrl: train robot controllers in simulation, verify them, ship them as one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robotrl.registration import register_tasks

if TYPE_CHECKING:
    from robotrl.api import evaluate, load_policy, make_env, train

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "load_policy", "make_env", "train"]

register_tasks()


def __getattr__(name: str) -> Any:
    """Import the interface on first use: it needs torch, `import robotrl` does not (PEP 562)."""
    if name in __all__:
        from robotrl import api

        return getattr(api, name)
    raise AttributeError(f"module 'robotrl' has no attribute {name!r}")
