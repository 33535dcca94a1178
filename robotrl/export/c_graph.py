"""An ONNX network for one observation at a time: every shape known, every constant computed.

The network's operators are run once by ONNX's own reference implementation. What does not depend on an
input becomes a constant; what only moves numbers (slices, transpositions, reshapes, ...) becomes a list of
where each number comes from, found by moving numbers that say where they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

MOVES = {
    *("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape"),
    *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
"""Operators that only move numbers."""
_SOURCE = 2**32


@dataclass(frozen=True)
class Move:
    """An output of which every number is one of the inputs' numbers.

    Attributes:
        output: name.
        inputs: names.
        source: (size,) int64, which of the inputs, per number.
        element: (size,) int64, which number of that, in row-major order.
    """

    output: str
    inputs: tuple[str, ...]
    source: np.ndarray
    element: np.ndarray


@dataclass(frozen=True)
class Operation:
    """An operator that computes.

    Attributes:
        kind: ONNX's name for it.
        inputs: names; "" where an optional one is left out.
        output: name.
        attributes: of the operator.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Graph:
    """A network in the order of execution.

    Attributes:
        inputs: names.
        output: name.
        steps: what is computed, in this order.
        constants: name -> array.
        shapes: name -> shape, of everything that is no constant; the batch is 1.
    """

    inputs: tuple[str, ...]
    output: str
    steps: list[Move | Operation]
    constants: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]


def read_graph(model: onnx.ModelProto) -> Graph:
    """Return the network of an ONNX model, for a batch of one."""
    network = model.graph
    graph = Graph(
        inputs=tuple(value.name for value in network.input),
        output=network.output[0].name,
        steps=[],
        constants={tensor.name: numpy_helper.to_array(tensor) for tensor in network.initializer},
        shapes={},
    )
    # what the operators return for some input: it tells shapes, and for constants the value
    sample = dict(graph.constants)
    for value in network.input:
        graph.shapes[value.name] = (1, *(d.dim_value for d in value.type.tensor_type.shape.dim[1:]))
        sample[value.name] = np.full(graph.shapes[value.name], 0.1, np.float32)
    for node in network.node:
        results = _run(model, node, sample)
        sample |= results
        if all(name in graph.constants for name in node.input if name):
            graph.constants |= results
            continue
        graph.shapes |= {name: array.shape for name, array in results.items()}
        if node.op_type in MOVES and all(name in graph.constants for name in node.input[_moved(node) :]):
            graph.steps += _moves(model, node, sample)
        else:
            attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            graph.steps.append(Operation(node.op_type, tuple(node.input), node.output[0], attributes))
    return graph


def _moved(node: onnx.NodeProto) -> int:
    """Return how many inputs are moved; those after them say whereto."""
    return len(node.input) if node.op_type == "Concat" else 1


def _run(
    model: onnx.ModelProto, node: onnx.NodeProto, values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Run one operator."""
    names = [name for name in dict.fromkeys(node.input) if name]
    single = helper.make_graph(
        [node],
        "single",
        [helper.make_tensor_value_info(name, 0, None) for name in names],
        [helper.make_tensor_value_info(name, 0, None) for name in node.output],
    )
    evaluator = ReferenceEvaluator(helper.make_model(single, opset_imports=model.opset_import))
    with np.errstate(all="ignore"):
        results = evaluator.run(None, {name: values[name] for name in names})
    return {name: np.asarray(array) for name, array in zip(node.output, results, strict=True)}


def _moves(model: onnx.ModelProto, node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> list[Move]:
    """Move numbers that say where they were."""
    moved = tuple(dict.fromkeys(node.input[: _moved(node)]))
    places = dict(values)
    for i, name in enumerate(moved):
        size = values[name].size
        places[name] = (i * _SOURCE + np.arange(size, dtype=np.int64)).reshape(values[name].shape)
    return [
        Move(output, moved, *np.divmod(array.reshape(-1), _SOURCE))
        for output, array in _run(model, node, places).items()
    ]
