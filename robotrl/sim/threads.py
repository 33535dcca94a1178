"""Torch beside the physics: its workers spin while they wait, and so take the CPUs of the physics threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch use one thread inside; for code that steps environments and learns nothing.

    It may be used as a decorator.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
