"""A network as the body of a C function, its constants, and the memory that it works in."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import onnx

from robotrl.export.c_graph import Graph, Move, Operation, read_graph
from robotrl.export.c_operators import Array, literal, statements

# floats in a vector register: buffers begin at multiples of it
_ALIGNMENT = 16
# a move in more pieces than this goes through a table
_PIECES = 16
_PER_LINE = 8


@dataclass(frozen=True)
class CNetwork:
    """A network in C.

    Attributes:
        constants: declarations of what it is made of.
        body: statements from `obs` (and `noise`) to `action`, in an array `w`; they set `bad`.
        memory: numbers that `w` needs to have.
    """

    constants: str
    body: str
    memory: int


def network_in_c(model: onnx.ModelProto) -> CNetwork:
    """Write a network in C.

    Args:
        model: with inputs "obs" and perhaps "noise", and output "action".

    Raises:
        RobotrlError: it has an operator that there is no C for.
    """
    return _Writer(read_graph(model)).write()


class _Writer:
    """Writes one network."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # value -> the value in whose memory it lies, and where there
        self._views: dict[str, tuple[str, int]] = {}
        self._constants: dict[bytes, str] = {}
        self._declarations: dict[str, str] = {}
        self._names = {name: name for name in graph.inputs}

    def write(self) -> CNetwork:
        """Write it."""
        graph = self._graph
        for step in graph.steps:
            if isinstance(step, Move):
                self._note_view(step)
        offsets, memory = self._place()
        needed = {graph.output, *(name for step in graph.steps for name in step.inputs)}
        lines = []
        for i, step in enumerate(graph.steps):
            if step.output not in needed:
                continue
            name = self._names[step.output] = f"t{i}"
            if step.output in self._views:
                source, start = self._views[step.output]
                lines.append(f"const float *const {name} = {self._array(source).name} + {start};")
                continue
            lines.append(f"float *const {name} = w + {offsets[step.output]};")
            output = self._array(step.output)
            lines += self._moves(step, output) if isinstance(step, Move) else self._statements(step, output)
        result = self._array(graph.output)
        lines.append(f"memcpy(action, {result.name}, {result.size} * sizeof(float));")
        body = "\n".join(f"    {line}" for line in lines)
        named = set(re.findall(r"\bc\d+\b", body))
        constants = "\n".join(text for name, text in self._declarations.items() if name in named)
        return CNetwork(constants, body, max(1, memory))

    def _note_view(self, move: Move) -> None:
        """Note a move of neighbours to neighbours: it takes no copy."""
        start = int(move.element[0])
        if np.all(move.source == move.source[0]) and np.array_equal(
            move.element, np.arange(start, start + len(move.element))
        ):
            self._views[move.output] = (move.inputs[int(move.source[0])], start)

    def _root(self, name: str) -> str:
        while name in self._views:
            name = self._views[name][0]
        return name

    def _place(self) -> tuple[dict[str, int], int]:
        """Give every result a place in `w` that nothing else needs meanwhile; return them and w's size."""
        steps = self._graph.steps
        last = {self._root(self._graph.output): len(steps)}
        for i, step in enumerate(steps):
            for name in step.inputs:
                root = self._root(name)
                last[root] = max(last.get(root, 0), i)
        offsets: dict[str, int] = {}
        live: list[tuple[int, int, int]] = []  # start, end, last use
        memory = 0
        for i, step in enumerate(steps):
            live = [place for place in live if place[2] >= i]
            if step.output in self._views:
                continue
            size = int(np.prod(self._graph.shapes[step.output]))
            start = 0
            for taken, end, _ in sorted(live):
                if start + size <= taken:
                    break
                start = max(start, -(-end // _ALIGNMENT) * _ALIGNMENT)
            offsets[step.output] = start
            live.append((start, start + size, last.get(step.output, i)))
            memory = max(memory, start + size)
        return offsets, memory

    def _array(self, name: str, transposed: bool = False) -> Array:
        value = self._graph.constants.get(name)
        if value is None:
            return Array(self._names[name], self._graph.shapes[name])
        value = value.T if transposed else value
        return Array(self._constant(value), value.shape, value)

    def _constant(self, value: np.ndarray) -> str:
        numbers = np.ascontiguousarray(value, np.float32).reshape(-1)
        key = numbers.tobytes()
        if key not in self._constants:
            self._constants[key] = f"c{len(self._constants)}"
            self._declarations[self._constants[key]] = declare(self._constants[key], numbers)
        return self._constants[key]

    def _statements(self, step: Operation, output: Array) -> list[str]:
        transposed = bool(step.attributes.get("transB", 0))
        inputs = [
            self._array(name, transposed and i == 1) if name else None for i, name in enumerate(step.inputs)
        ]
        return statements(step, inputs, output)

    def _moves(self, move: Move, output: Array) -> list[str]:
        breaks = np.flatnonzero((np.diff(move.source) != 0) | (np.diff(move.element) != 1)) + 1
        starts = [0, *breaks.tolist()]
        inputs = [self._array(name) for name in move.inputs]
        if len(starts) > _PIECES and len(inputs) == 1:
            table = f"m_{output.name}"
            numbers = ", ".join(map(str, move.element))
            return [
                f"static const int {table}[] = {{{numbers}}};",
                f"for (int i = 0; i < {output.size}; i++) {output.name}[i] = {inputs[0].name}[{table}[i]];",
            ]
        return [
            f"memcpy({output.name} + {start}, {inputs[move.source[start]].name} + {move.element[start]}, "
            f"{end - start} * sizeof(float));"
            for start, end in zip(starts, [*starts[1:], output.size], strict=True)
        ]


def declare(name: str, numbers: np.ndarray) -> str:
    """Return the declaration of constant numbers, exact to the last bit."""
    words = [literal(number) for number in numbers.reshape(-1).tolist()]
    lines = [", ".join(words[i : i + _PER_LINE]) for i in range(0, len(words), _PER_LINE)]
    return f"static const float {name}[{len(words)}] = {{\n    " + ",\n    ".join(lines) + "};"
