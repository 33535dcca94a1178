"""Checkpoints: one safetensors file each, never a pickle, and either whole or absent.

A checkpoint is a tree of dicts and lists with tensors, numbers, strings, booleans and None at the
leaves. Tensors are stored under their path in the tree, those that share memory each on their own; the
rest of the tree is JSON in the header.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from robotrl.core.errors import RobotrlError
from robotrl.core.files import write_aside

_VERSION = 1


def save(path: Path, tree: dict[str, Any], kind: str = "checkpoint") -> None:
    """Write `tree` to `path`, aside first and then by rename.

    Args:
        path: of the file.
        tree: what to write.
        kind: of content, which `load` will insist on.

    Raises:
        RobotrlError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(tree, "", tensors)
    _unshare(tensors)
    metadata = {"format": _format(kind), "tree": json.dumps(skeleton)}
    try:
        write_aside(path, lambda aside: save_file(tensors, aside, metadata=metadata))
    except (OSError, SafetensorError) as error:
        raise RobotrlError(f"cannot write {kind} {path}: {error}") from error


def load(path: Path, prefix: str = "", kind: str = "checkpoint") -> dict[str, Any]:
    """Read the tree back.

    Args:
        path: written by `save`.
        prefix: read only tensors whose path starts with it ("algorithm/policy"); the others are None.
        kind: of content, as it was saved.

    Raises:
        RobotrlError: the file is missing, truncated, or not a robotrl file of this kind.
    """
    if not path.is_file():
        raise RobotrlError(f"{kind} {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _format(kind):
                raise RobotrlError(
                    f"{path} is not a robotrl {kind}: format is {metadata.get('format')!r}, "
                    f"expected {_format(kind)!r}"
                )

            def tensor(name: str) -> Tensor | None:
                return file.get_tensor(name) if name.startswith(prefix) else None

            tree = _unpack(json.loads(metadata["tree"]), tensor)
    except (SafetensorError, json.JSONDecodeError, KeyError, OSError) as error:
        raise RobotrlError(f"{kind} {path} is damaged: {error}") from error
    return tree


def _format(kind: str) -> str:
    return f"robotrl.{kind.replace(' ', '_')}/{_VERSION}"


def _pack(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        tensors[path] = node.detach().contiguous()
        return {"tensor": path}
    if isinstance(node, dict):
        # pairs, not an object: optimisers key their state by integers
        return {
            "dict": [[key, _pack(value, f"{path}/{key}".lstrip("/"), tensors)] for key, value in node.items()]
        }
    if isinstance(node, (list, tuple)):
        return {"list": [_pack(value, f"{path}/{i}".lstrip("/"), tensors) for i, value in enumerate(node)]}
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    raise TypeError(f"a checkpoint cannot hold {type(node).__name__} at {path!r}")


def _unshare(tensors: dict[str, Tensor]) -> None:
    """Copy what stands under several names, as the critics of a policy do: the file keeps each."""
    seen = set[int]()
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        if address in seen:
            tensors[name] = tensor.clone()
        seen.add(address)


def _unpack(node: Any, tensor: Callable[[str], Tensor | None]) -> Any:
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        return tensor(node["tensor"])
    if "list" in node:
        return [_unpack(value, tensor) for value in node["list"]]
    return {key: _unpack(value, tensor) for key, value in node["dict"]}
