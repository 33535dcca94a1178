"""Exponential moving average of a module's parameters."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """A copy of a module that follows it: average <- average + rate (module - average).

    Buffers are not averaged but copied.

    Args:
        module: what is followed.
        rate: share of the difference taken over at each update, in (0, 1].
        shared: a part of the module that the copy is to share with it, such as a normaliser; None for none.

    Attributes:
        module: the average; takes no gradients.
    """

    def __init__(self, module: M, rate: float, shared: nn.Module | None = None) -> None:
        self.module = copy.deepcopy(module, {id(shared): shared}).requires_grad_(False)
        self.rate = rate
        self._followed = module

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the module."""
        for average, parameter in zip(self.module.parameters(), self._followed.parameters(), strict=True):
            average.lerp_(parameter, self.rate)
        for kept, buffer in zip(self.module.buffers(), self._followed.buffers(), strict=True):
            kept.copy_(buffer)
