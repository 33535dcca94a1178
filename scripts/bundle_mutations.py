"""Damage to bundles, by chance and on purpose: bytes, files, contract, recordings and network.

Most damage to contract, recordings and network is forged: hashes and the copy of the contract inside the
network are made to agree with it, so that it gets past them.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from robotrl.core.errors import RobotrlError
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.contract import METADATA_KEY
from robotrl.deploy.controller import BundleController

# what a value of the contract becomes; NaN and infinities as no JSON has them
WEIRD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e300, math.nan, math.inf,
    -math.inf, "", "x", "../../x", "\x00", "\ud800", "é" * 50, [], [[]], {}, [1, 2], {"x": 1},
)  # fmt: skip
_EXTREME = (0.0, 1.0, -1.0, 1e3, -1e6, 1e30, -3e38, np.nan, np.inf, -np.inf, 1e-40)


@dataclass
class Copy:
    """A bundle to damage.

    Attributes:
        path: its folder.
        other: another, sound bundle.
        rng: of every choice.
    """

    path: Path
    other: Path
    rng: np.random.Generator

    def file(self) -> Path:
        """Choose one of its files."""
        return self.choice(sorted(self.path.iterdir()))

    def choice(self, items: Any) -> Any:
        """Choose one of some things."""
        return items[int(self.rng.integers(len(items)))]

    def contract(self) -> dict[str, Any]:
        """Read its contract."""
        return json.loads((self.path / "contract.json").read_text())

    def write(self, contract: Any) -> None:
        """Write a contract, whatever it is."""
        (self.path / "contract.json").write_bytes(_json(contract))


def truncate(copy: Copy) -> None:
    """Cut a file."""
    file = copy.file()
    raw = file.read_bytes()
    file.write_bytes(raw[: int(copy.rng.integers(len(raw)))])


def flip(copy: Copy) -> None:
    """Change some bytes of a file."""
    file = copy.file()
    raw = bytearray(file.read_bytes())
    for _ in range(int(copy.rng.integers(1, 9))):
        raw[int(copy.rng.integers(len(raw)))] = int(copy.rng.integers(256))
    file.write_bytes(raw)


def remove(copy: Copy) -> None:
    """Remove a file, or put a folder or a link to nowhere in its place."""
    file = copy.file()
    file.unlink()
    how = int(copy.rng.integers(3))
    if how == 1:
        file.mkdir()
    elif how == 2:
        file.symlink_to("nowhere")


def swap(copy: Copy) -> None:
    """Take a file of another bundle."""
    file = copy.choice(sorted(copy.other.iterdir()))
    shutil.copy(file, copy.path / file.name)


def nest(copy: Copy) -> None:
    """Nest a contract deeper than any program can follow."""
    (copy.path / "contract.json").write_text('{"schema":' + "[" * 100_000 + "]" * 100_000 + "}")


def contract_only(copy: Copy) -> None:
    """Change the contract and nothing else."""
    copy.write(_changed(copy.contract(), copy))


def forged_contract(copy: Copy) -> None:
    """Change the contract with everything that depends on it."""
    forge(copy, _changed(copy.contract(), copy))


def forged_golden(copy: Copy) -> None:
    """Change recordings."""
    with np.load(copy.path / "golden.npz", allow_pickle=False) as archive:
        golden = {name: archive[name] for name in archive.files}
    name = copy.choice([name for name in sorted(golden) if not name.startswith("loop_state")])
    array = golden[name]
    changes: list[Callable[[], Any]] = [
        lambda: array[:0],
        lambda: array[:-1],
        lambda: array[..., :0],
        lambda: array.T,
        lambda: array.astype(copy.choice([np.float64, np.int8, np.complex64, "U5", "S3", bool])),
        lambda: np.float32(0.0),
        lambda: np.where(copy.rng.random(array.shape) < 0.01, copy.choice(_EXTREME), array).astype(
            np.float32
        ),
        lambda: array * np.float32(copy.choice(_EXTREME)),
        lambda: np.array([{}], dtype=object),
        lambda: None,
    ]
    with np.errstate(all="ignore"):
        changed = copy.choice(changes)()
    golden.pop(name)
    if changed is not None:
        golden[name] = changed
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **golden)
    (copy.path / "golden.npz").write_bytes(file.getvalue())
    forge(copy, copy.contract())


def forged_network(copy: Copy) -> None:
    """Change weights, wiring or shapes of the network."""
    model = onnx.load(copy.path / "policy.onnx")
    graph = model.graph
    how = int(copy.rng.integers(4))
    if how < 2:
        tensor = copy.choice(graph.initializer)
        array = numpy_helper.to_array(tensor).copy()
        if array.size and array.dtype == np.float32:
            flat = array.reshape(-1)
            flat[int(copy.rng.integers(flat.size))] = copy.choice(_EXTREME)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    elif how == 2:
        node = copy.choice(graph.node)
        node.op_type = copy.choice(
            ["Add", "Mul", "Identity", "Neg", "Exp", "Log", "Loop", "Clip", "NoSuchThing"]
        )
    else:
        del graph.node[int(copy.rng.integers(len(graph.node)))]
    onnx.save(model, copy.path / "policy.onnx")
    forge(copy, copy.contract())


def forged_bytes(copy: Copy) -> None:
    """Change bytes of the network and its hash."""
    file = copy.path / "policy.onnx"
    raw = bytearray(file.read_bytes())
    for _ in range(int(copy.rng.integers(1, 5))):
        raw[int(copy.rng.integers(len(raw)))] = int(copy.rng.integers(256))
    file.write_bytes(raw)
    copy.write(copy.contract() | {"policy_sha256": hashlib.sha256(raw).hexdigest()})


MUTATIONS: tuple[Callable[[Copy], None], ...] = (
    truncate, flip, remove, swap, nest, contract_only, contract_only, contract_only, forged_contract,
    forged_contract, forged_contract, forged_contract, forged_golden, forged_golden, forged_network,
    forged_network, forged_network, forged_bytes,
)  # fmt: skip


def forge(copy: Copy, contract: Any) -> None:
    """Make hashes and the network's copy of the contract agree with it."""
    if isinstance(contract, dict):
        golden = (copy.path / "golden.npz").read_bytes()
        contract = contract | {"golden_sha256": hashlib.sha256(golden).hexdigest()}
        inside = contract | {"policy_sha256": None, "files": {}}
    else:
        inside = contract
    model = onnx.load(copy.path / "policy.onnx")
    del model.metadata_props[:]
    try:
        onnx.helper.set_model_props(model, {METADATA_KEY: _json(inside).decode()})
    except (UnicodeError, ValueError):
        return  # what protobuf cannot hold; the contract is refused by its hash
    onnx.save(model, copy.path / "policy.onnx")
    if isinstance(contract, dict):
        contract["policy_sha256"] = hashlib.sha256((copy.path / "policy.onnx").read_bytes()).hexdigest()
    copy.write(contract)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _changed(contract: Any, copy: Copy) -> Any:
    """Return a contract with one to three values changed, left out, doubled or moved."""
    for _ in range(int(copy.rng.integers(1, 4))):
        node = contract
        # walk down by chance
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = copy.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and copy.rng.random() < 0.8:
                node = node[key]
                continue
            how = int(copy.rng.integers(5))
            if how == 0:
                del node[key]
            elif how == 1 and isinstance(node, list):
                node.append(node[key])
            elif how == 2 and isinstance(node, list):
                node.reverse()
            elif how == 3 and _is_moderate(node[key]):
                node[key] = node[key] * copy.choice([0, -1, 2, 0.5, 1 + 1e-9, 1e9])
            else:
                node[key] = copy.choice(WEIRD)
            break
    return contract


def _is_moderate(value: Any) -> bool:
    """Return whether a value is a number that can be multiplied by a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def attempt(path: Path, rng: np.random.Generator) -> str:
    """Load a damaged bundle and, if it loads, let it decide; return what became of it.

    Returns:
        "refused: ..." with the kind of refusal, "refused a decision" or "decided".

    Raises:
        AssertionError: a command outside the limits of the contract, or a message of several lines.
        Exception: anything but `RobotrlError` is a crash.
    """
    try:
        bundle = Bundle.load(path)
    except RobotrlError as error:
        assert "\n" not in str(error), str(error)
        return "refused"
    contract = bundle.contract
    low = np.array([term.low - contract.atol * max(1.0, term.scale) for term in contract.outputs])
    high = np.array([term.high + contract.atol * max(1.0, term.scale) for term in contract.outputs])
    rounding = 1e-6 * np.maximum(np.abs(low), np.abs(high))
    controller, outcome = BundleController(bundle), "decided"
    for scale in (0.0, 1.0, 30.0, 1e4, 1e30):
        for _ in range(4):
            controller.reset()
            try:
                with np.errstate(over="ignore"):
                    command = controller(scale * rng.standard_normal(contract.input_size))
            except RobotrlError as error:
                assert "\n" not in str(error), str(error)
                outcome = "refused a decision"
                continue
            assert ((command >= low - rounding) & (command <= high + rounding)).all(), command
    return outcome


def run(sources: list[Path], work: Path, seed: int) -> tuple[str, str]:
    """Damage a copy of a bundle and attempt it; return the damage and what became of it.

    Args:
        sources: at least two sound bundles.
        work: a folder for the copy.
        seed: of every choice.
    """
    rng = np.random.default_rng(seed)
    first, second = (sources[int(i)] for i in rng.permutation(len(sources))[:2])
    path = work / "bundle"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(first, path)
    mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
    mutation(Copy(path, second, rng))
    return mutation.__name__, attempt(path, rng)
