"""How long updates took: on a robot each has to fit into what the control period leaves."""

from __future__ import annotations


class Durations:
    """Wall-clock times of updates, s. An update that takes too long is completed and counted.

    Args:
        budget_s: what an update may take, None for any time.

    Attributes:
        last_s: of the last update.
        max_s: of the longest so far.
        updates: how many there were.
        over_budget: how many of them took longer than the budget.
    """

    def __init__(self, budget_s: float | None) -> None:
        self.budget_s = budget_s
        self.last_s = self.max_s = 0.0
        self.updates = self.over_budget = 0

    def add(self, duration_s: float) -> None:
        """Take in an update."""
        self.last_s = duration_s
        self.max_s = max(self.max_s, duration_s)
        self.updates += 1
        if self.budget_s is not None and duration_s > self.budget_s:
            self.over_budget += 1
