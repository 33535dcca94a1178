"""C for the operators of a network: plain loops over arrays of float whose shapes are known.

Indices and truth values are float too: they are small whole numbers, which float holds exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robotrl.core.errors import RobotrlError
from robotrl.export.c_graph import Operation


@dataclass(frozen=True)
class Array:
    """An array in C.

    Attributes:
        name: of the pointer to its first number.
        shape: row-major.
        value: its numbers where they are constant.
    """

    name: str
    shape: tuple[int, ...]
    value: np.ndarray | None = None

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """How far apart neighbours along each dimension lie."""
        return tuple(math.prod(self.shape[d + 1 :]) for d in range(len(self.shape)))


_ELEMENTWISE = {
    "Add": "{0} + {1}",
    "Sub": "{0} - {1}",
    "Mul": "{0} * {1}",
    "Div": "{0} / {1}",
    "Pow": "powf({0}, {1})",
    "Max": "{0} > {1} ? {0} : {1}",
    "Min": "{0} < {1} ? {0} : {1}",
    "Greater": "{0} > {1} ? 1.0f : 0.0f",
    "Less": "{0} < {1} ? 1.0f : 0.0f",
    "Where": "{0} != 0.0f ? {1} : {2}",
    "Neg": "-{0}",
    "Abs": "fabsf({0})",
    "Reciprocal": "1.0f / {0}",
    "Sqrt": "sqrtf({0})",
    "Exp": "robotrl_exp({0})",
    "Log": "logf({0})",
    "Sin": "sinf({0})",
    "Cos": "cosf({0})",
    "Erf": "robotrl_erf({0})",
    "Tanh": "robotrl_tanh({0})",
    "Sigmoid": "robotrl_sigmoid({0})",
    "Softplus": "robotrl_softplus({0})",
    "Relu": "{0} < 0.0f ? 0.0f : {0}",
    "Elu": "{0} < 0.0f ? {alpha} * (robotrl_exp({0}) - 1.0f) : {0}",
    "LeakyRelu": "{0} < 0.0f ? {alpha} * {0} : {0}",
    "Mish": "{0} * robotrl_tanh(robotrl_softplus({0}))",
}
# what an operator does only if it says nothing else; how its C is written depends on nothing more
_DEFAULTS: dict[str, dict[str, Any]] = {
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0},
    "ArgMax": {"select_last_index": 0},
    "ReduceMean": {"noop_with_empty_axes": 0},
    "ReduceSum": {"noop_with_empty_axes": 0},
}


def statements(step: Operation, inputs: Sequence[Array | None], output: Array) -> list[str]:
    """Return the C statements that compute an operator's output.

    Args:
        step: the operator.
        inputs: its operands, None where an optional one is left out. Of "Gemm" the second one comes as
            (in, out), whatever `transB` says.
        output: where to write.

    Raises:
        RobotrlError: there is no C for it; names the operator.
    """
    for name, value in _DEFAULTS.get(step.kind, {}).items():
        if step.attributes.get(name, value) != value:
            raise RobotrlError(
                f"the network cannot be written as C: there is no C for operator {step.kind} with "
                f"{name}={step.attributes[name]!r}"
            )
    if step.kind in _ELEMENTWISE:
        template = _ELEMENTWISE[step.kind]
        operands = [x for x in inputs if x is not None]
        if f"{{{len(operands) - 1}}}" not in template or f"{{{len(operands)}}}" in template:
            raise RobotrlError(
                "the network cannot be written as C: there is no C for operator "
                f"{step.kind} of {len(operands)} operands"
            )
        alpha = literal(step.attributes.get("alpha", 0.01 if step.kind == "LeakyRelu" else 1.0))
        return _elementwise(template.replace("{alpha}", alpha), operands, output)
    if step.kind not in _OTHERS:
        raise RobotrlError(
            f"the network cannot be written as C: there is no C for operator {step.kind}; "
            "export without it: leave out --format c"
        )
    return _OTHERS[step.kind](step, inputs, output)


def literal(value: float) -> str:
    """Return a float constant that C reads back as the same float32."""
    if math.isinf(value):
        return "HUGE_VALF" if value > 0 else "-HUGE_VALF"
    text = f"{np.float32(value):.9g}"
    return text + ("f" if any(c in text for c in ".e") else ".0f")


def _nest(sizes: Sequence[int], strides: Sequence[Sequence[int]], body: Callable[[list[str]], str]) -> str:
    """Return nested loops.

    Args:
        sizes: of the dimensions.
        strides: of each array, per dimension.
        body: statement, from the arrays' index expressions.
    """
    merged: list[tuple[int, list[int]]] = []
    for d, size in enumerate(sizes):
        steps = [stride[d] for stride in strides]
        if size == 1:
            continue
        if merged and all(outer == inner * size for outer, inner in zip(merged[-1][1], steps, strict=True)):
            merged[-1] = (merged[-1][0] * size, steps)
        else:
            merged.append((size, steps))
    loops = "".join(f"for (int i{d} = 0; i{d} < {size}; i{d}++) " for d, (size, _) in enumerate(merged))
    places = []
    for a in range(len(strides)):
        parts = [
            f"i{d}" if steps[a] == 1 else f"{steps[a]} * i{d}"
            for d, (_, steps) in enumerate(merged)
            if steps[a]
        ]
        places.append(" + ".join(parts) or "0")
    return loops + body(places)


def _broadcast(array: Array, shape: tuple[int, ...]) -> list[int]:
    """Return strides of an array along the dimensions of a shape that it is repeated to."""
    padding = len(shape) - len(array.shape)
    own = [0 if n == 1 else stride for n, stride in zip(array.shape, array.strides, strict=True)]
    return [0] * padding + own


def _elementwise(template: str, inputs: Sequence[Array], output: Array) -> list[str]:
    def body(places: list[str]) -> str:
        values = [
            literal(x.value.item()) if x.value is not None and x.value.size == 1 else f"{x.name}[{place}]"
            for x, place in zip(inputs, places[1:], strict=True)
        ]
        return f"{output.name}[{places[0]}] = {template.format(*values)};"

    strides = [output.strides, *(_broadcast(x, output.shape) for x in inputs)]
    return [_nest(output.shape, strides, body)]


def _bound(array: Array) -> str:
    if array.value is None or array.value.size != 1:
        raise RobotrlError("the network cannot be written as C: operator Clip has bounds that it computes")
    return literal(array.value.item())


def _gelu(step: Operation, inputs: Sequence[Array | None], output: Array) -> list[str]:
    (x,) = inputs
    assert x is not None
    function = "robotrl_gelu_tanh" if step.attributes.get("approximate") == b"tanh" else "robotrl_gelu"
    return _elementwise(f"{function}({{0}})", [x], output)


def _clip(step: Operation, inputs: Sequence[Array | None], output: Array) -> list[str]:
    x, *bounds = inputs
    assert x is not None
    low, high = [*bounds, None, None][:2]
    cut = "v"
    if high is not None:
        cut = f"v > {_bound(high)} ? {_bound(high)} : {cut}"
    if low is not None:
        cut = f"v < {_bound(low)} ? {_bound(low)} : {cut}"
    return [
        f"for (int i = 0; i < {x.size}; i++) {{ "
        f"float v = {x.name}[i]; bad |= robotrl_not_finite(v); {output.name}[i] = {cut}; }}"
    ]


def _linear(x: str, w: str, b: str, rows: int, k: int, m: int, y: str) -> str:
    return f"robotrl_linear({x}, {w}, {b}, {rows}, {k}, {m}, {y});"


def _gemm(step: Operation, inputs: Sequence[Array | None], output: Array) -> list[str]:
    x, w, b = [*inputs, None][:3]
    assert x is not None and w is not None
    whole_row = b is not None and b.size == output.shape[1]
    bias = b.name if b is not None and whole_row else "0"
    lines = [_linear(x.name, w.name, bias, x.shape[0], w.shape[0], w.shape[1], output.name)]
    if b is not None and not whole_row:
        lines += _elementwise("{0} + {1}", [output, b], output)
    return lines


def _matmul(step: Operation, inputs: Sequence[Array | None], output: Array) -> list[str]:
    x, w = inputs
    assert x is not None and w is not None
    if len(w.shape) <= 2:  # all rows at once
        k, m = (*w.shape, 1)[:2]
        return [_linear(x.name, w.name, "0", x.size // k, k, m, output.name)]
    n, k = (1, *x.shape)[-2:]
    m = w.shape[-1]
    batch = np.broadcast_shapes(x.shape[:-2], w.shape[:-2])
    batch_and_matrix = (*batch, 0, 0)
    lines = []
    for i, index in enumerate(itertools.product(*map(range, batch))):
        at_x, at_w = (
            sum(step * place for step, place in zip(_broadcast(part, batch_and_matrix), index, strict=False))
            for part in (x, w)
        )
        lines.append(
            _linear(f"{x.name} + {at_x}", f"{w.name} + {at_w}", "0", n, k, m, f"{output.name} + {i * n * m}")
        )
    return lines


def _rows(x: Array, axis: int) -> tuple[int, int]:
    """Return how many rows of how many numbers there are from a dimension on."""
    n = math.prod(x.shape[axis if axis >= 0 else len(x.shape) + axis :])
    return x.size // n, n


def _layer_norm(step: Operation, inputs: Sequence[Array | None], output: Array) -> list[str]:
    x, scale, shift = [*inputs, None][:3]
    assert x is not None and scale is not None
    rows, n = _rows(x, step.attributes.get("axis", -1))
    epsilon = literal(step.attributes.get("epsilon", 1e-5))
    shift_name = "0" if shift is None else shift.name
    return [
        f"robotrl_layer_norm({x.name}, {scale.name}, {shift_name}, {epsilon}, {rows}, {n}, {output.name});"
    ]


def _softmax(step: Operation, inputs: Sequence[Array | None], output: Array) -> list[str]:
    (x,) = inputs
    assert x is not None
    axis = step.attributes.get("axis", -1)
    if axis not in (-1, len(x.shape) - 1):
        raise RobotrlError("the network cannot be written as C: operator Softmax not along the last axis")
    return [f"robotrl_softmax({x.name}, {', '.join(map(str, _rows(x, -1)))}, {output.name});"]


def _for_each_left(x: Array, gone: Sequence[int], body: Callable[[list[str]], str]) -> str:
    """Return loops over the dimensions left of an array; `body` gets the indices of output and array."""
    left = [d for d in range(len(x.shape)) if d not in gone]
    output = Array("", tuple(x.shape[d] for d in left))
    return _nest(output.shape, [output.strides, [x.strides[d] for d in left]], body)


def _reduce(step: Operation, inputs: Sequence[Array | None], output: Array) -> list[str]:
    x, axes = [*inputs, None][:2]
    assert x is not None
    rank = len(x.shape)
    every = range(rank) if axes is None or axes.value is None else [int(a) % rank for a in axes.value]
    gone = sorted(every)
    count = math.prod(x.shape[d] for d in gone)
    mean = f" * {literal(1.0 / count)}" if step.kind == "ReduceMean" else ""
    inner = [(x.shape[d], x.strides[d]) for d in gone]
    loops = "".join(f"for (int j{i} = 0; j{i} < {size}; j{i}++) " for i, (size, _) in enumerate(inner))
    offset = "".join(f" + {stride} * j{i}" for i, (_, stride) in enumerate(inner))

    def body(places: list[str]) -> str:
        return (
            f"{{ float sum = 0.0f; {loops}sum += {x.name}[{places[1]}{offset}]; "
            f"{output.name}[{places[0]}] = sum{mean}; }}"
        )

    return [_for_each_left(x, gone, body)]


def _argmax(step: Operation, inputs: Sequence[Array | None], output: Array) -> list[str]:
    (x,) = inputs
    assert x is not None
    axis = step.attributes.get("axis", 0) % len(x.shape)
    stride = x.strides[axis]

    def body(places: list[str]) -> str:
        at = f"{places[1]} + {stride} *"
        return (
            f"{{ int best = 0; for (int j = 1; j < {x.shape[axis]}; j++) "
            f"if ({x.name}[{at} j] > {x.name}[{at} best]) best = j; "
            f"{output.name}[{places[0]}] = (float)best; }}"
        )

    return [_for_each_left(x, [axis], body)]


def _gather_elements(step: Operation, inputs: Sequence[Array | None], output: Array) -> list[str]:
    x, index = inputs
    assert x is not None and index is not None
    if index.value is not None and (index.value < 0).any():
        raise RobotrlError("the network cannot be written as C: operator GatherElements counts from the end")
    axis = step.attributes.get("axis", 0) % len(x.shape)
    along = [0 if d == axis else stride for d, stride in enumerate(x.strides)]

    def body(places: list[str]) -> str:
        chosen = f"{x.strides[axis]} * (int){index.name}[{places[1]}]"
        return f"{output.name}[{places[0]}] = {x.name}[{places[2]} + {chosen}];"

    return [_nest(output.shape, [output.strides, index.strides, along], body)]


_OTHERS: dict[str, Callable[[Operation, Sequence[Array | None], Array], list[str]]] = {
    "Clip": _clip,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "LayerNormalization": _layer_norm,
    "Softmax": _softmax,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "ArgMax": _argmax,
    "GatherElements": _gather_elements,
}
