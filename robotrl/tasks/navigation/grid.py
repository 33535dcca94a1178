"""A maze as a grid of cells: where its walls are, and the shortest ways through it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

WALL = "#"


class Grid:
    """The free cells of a maze around the origin and the ways between them.

    Args:
        rows: the maze seen from above, "#" for a wall, "." for a free cell; the first row has the largest y.
        cell_m: side of a cell, m.

    Attributes:
        centers_m: (C, 2) float64 x and y of the C free cells, m.
        steps: (C, C) int64, moves between neighbouring cells on a shortest way from the first cell to the
            second, -1 where there is none.
        towards: (C, C) int64, the next cell on a shortest way from the first cell to the second; the cell
            itself where it is the second.
    """

    def __init__(self, rows: Sequence[str], cell_m: float) -> None:
        self.rows, self.cell_m = tuple(rows), cell_m
        self._size = torch.tensor([len(rows[0]), len(rows)], dtype=torch.float64)
        free = [(i, j) for i, row in enumerate(rows) for j, mark in enumerate(row) if mark != WALL]
        self._number = torch.full((len(rows), len(rows[0])), -1)
        for number, (i, j) in enumerate(free):
            self._number[i, j] = number
        self.centers_m = torch.stack([self._center_m(i, j) for i, j in free])
        neighbours = [self._neighbours(i, j) for i, j in free]
        self.steps = torch.full((len(free), len(free)), -1)
        self.towards = torch.arange(len(free)).unsqueeze(1).repeat(1, len(free))
        for goal in range(len(free)):
            self._search(goal, neighbours)

    def _center_m(self, row: float, column: float) -> Tensor:
        place = torch.tensor([column + 0.5, len(self.rows) - row - 0.5], dtype=torch.float64)
        return (place - self._size / 2) * self.cell_m

    def _neighbours(self, row: int, column: int) -> list[int]:
        places = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        inside = [(i, j) for i, j in places if 0 <= i < len(self.rows) and 0 <= j < len(self.rows[0])]
        return [number for i, j in inside if (number := int(self._number[i, j])) >= 0]

    def _search(self, goal: int, neighbours: list[list[int]]) -> None:
        """Fill the columns of `goal`: breadth first, from the goal outwards."""
        self.steps[goal, goal] = 0
        queue = deque([goal])
        while queue:
            cell = queue.popleft()
            for neighbour in neighbours[cell]:
                if self.steps[neighbour, goal] < 0:
                    self.steps[neighbour, goal] = self.steps[cell, goal] + 1
                    self.towards[neighbour, goal] = cell
                    queue.append(neighbour)

    def cell_of(self, position_m: Tensor) -> Tensor:
        """(N,) int64 the free cell whose centre is nearest to each of the (N, 2) positions, m."""
        return torch.cdist(position_m, self.centers_m.to(position_m)).argmin(1)

    def walls_m(self) -> list[tuple[Tensor, Tensor]]:
        """Return the walls as boxes: centre and half sizes, both (2,) m; walls side by side are one box."""
        boxes = []
        for i, row in enumerate(self.rows):
            start = 0
            while (start := row.find(WALL, start)) >= 0:
                end = start + len(row[start:]) - len(row[start:].lstrip(WALL))
                half = torch.tensor([end - start, 1.0], dtype=torch.float64) * self.cell_m / 2
                boxes.append((self._center_m(i, (start + end - 1) / 2), half))
                start = end
        return boxes
