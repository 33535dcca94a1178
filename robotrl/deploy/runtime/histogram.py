"""Durations of a run that may last for days, in constant memory."""

from __future__ import annotations

import math

_PER_DECADE = 10
_SHORTEST_S, _DECADES = 1e-6, 8


class Histogram:
    """Counts durations in bins that grow by a tenth of a decade from 1 µs to 100 s.

    Attributes:
        count: of durations.
        worst_s: the longest, s.
    """

    def __init__(self) -> None:
        self._bins = [0] * (_PER_DECADE * _DECADES + 1)
        self.count = 0
        self.worst_s = 0.0
        self._sum_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count a duration; one below 1 µs, or none at all, goes into the first bin."""
        place = math.ceil(_PER_DECADE * math.log10(max(duration_s, _SHORTEST_S) / _SHORTEST_S))
        self._bins[min(place, len(self._bins) - 1)] += 1
        self.count += 1
        self._sum_s += duration_s
        self.worst_s = max(self.worst_s, duration_s)

    @property
    def mean_s(self) -> float:
        """Mean, s; 0 of none."""
        return self._sum_s / self.count if self.count else 0.0

    def quantile_s(self, share: float) -> float:
        """Return the upper edge of the bin in which the given share of all durations is reached, s."""
        needed, seen = share * self.count, 0
        for place, count in enumerate(self._bins):
            seen += count
            if count and seen >= needed:
                return min(self.worst_s, _SHORTEST_S * 10.0 ** (place / _PER_DECADE))
        return 0.0

    def summary(self) -> dict[str, float]:
        """Return mean, median, 99th and 99.9th percentile and worst, s."""
        return {
            "mean_s": self.mean_s,
            "p50_s": self.quantile_s(0.5),
            "p99_s": self.quantile_s(0.99),
            "p999_s": self.quantile_s(0.999),
            "worst_s": self.worst_s,
        }
