"""Batches out of several replays in fixed shares: half demonstrations, half experience (Ball et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.types import Obs
from robotrl.data.replay import Replay, Transitions


class ReplayMix:
    """Draws every batch from several replays in the same shares.

    The rows of a batch stand part after part: the share holds for each call of `sample`, not for the
    pieces of a batch that is cut afterwards.

    Args:
        parts: name -> replay and its share of a batch, in [0, 1]; the shares add up to 1.

    Raises:
        UsageError: the shares do not add up to 1, or one is negative.
    """

    def __init__(self, parts: Mapping[str, tuple[Replay, float]]) -> None:
        shares = {name: share for name, (_, share) in parts.items()}
        if not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-9) or min(shares.values()) < 0:
            given = ", ".join(f"{name} {share:g}" for name, share in shares.items())
            raise UsageError(f"shares of a batch must be at least 0 and add up to 1, got {given or 'none'}")
        self._replays = [replay for replay, _ in parts.values()]
        self._shares = list(shares.values())

    def sample(
        self, batch_size: int, rng: torch.Generator, horizon: int = 1, gamma: float = 0.99
    ) -> Transitions:
        """Draw `counts(batch_size)` windows of each part; arguments as `Replay.sample`'s."""
        counts = self.counts(batch_size)
        drawn = [
            replay.sample(count, rng, horizon, gamma)
            for replay, count in zip(self._replays, counts, strict=True)
            if count
        ]
        return drawn[0] if len(drawn) == 1 else _joined(drawn)

    def counts(self, batch_size: int) -> list[int]:
        """Divide a batch by the largest remainder; where remainders are equal the earlier part gets more."""
        quotas = [share * batch_size for share in self._shares]
        # a share such as 0.29 times 100 is 28.999999999999996
        counts = [math.floor(quota + 1e-9) for quota in quotas]
        order = sorted(range(len(quotas)), key=lambda i: counts[i] - quotas[i])
        for i in order[: batch_size - sum(counts)]:
            counts[i] += 1
        return counts


def _joined(batches: list[Transitions]) -> Transitions:
    def tensors(name: str) -> Tensor:
        return torch.cat([getattr(batch, name) for batch in batches])

    def groups(name: str) -> Obs:
        first: Obs = getattr(batches[0], name)
        return {group: torch.cat([getattr(batch, name)[group] for batch in batches]) for group in first}

    return Transitions(
        groups("obs"),
        tensors("action"),
        tensors("reward"),
        tensors("discount"),
        groups("next_obs"),
        tensors("mask"),
    )
