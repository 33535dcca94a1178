"""Read a bundle and run its policy: numpy and onnxruntime only, so that it installs on a robot."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from robotrl.core.errors import RobotrlError, UsageError, unknown_name
from robotrl.deploy.contract import (
    CONTRACT_FILE,
    FURTHER_FILES,
    GOLDEN_FILE,
    METADATA_KEY,
    POLICY_FILE,
    Contract,
)
from robotrl.deploy.recordings import read_golden


class Bundle:
    """A policy that maps raw observations to actuator commands in physical units.

    Shapes: D observation values, A actuators, h actions of one decision (`contract.horizon`), one after
    another in a row (h*A). `BundleController` executes decisions and draws the noise they are made from.

    Build it with `Bundle.load`, which refuses a bundle whose parts do not fit each other.

    Attributes:
        path: the folder.
        contract: names, units, bounds and order of every input and output.
        golden: the recorded arrays: "observation" (n, D), "action" (n, h*A), where there is noise also
            "noise" (n, contract.noise_dim), and the closed-loop episode.
    """

    def __init__(
        self,
        path: Path,
        contract: Contract,
        golden: dict[str, np.ndarray],
        session: onnxruntime.InferenceSession,
    ) -> None:
        self.path, self.contract, self.golden = path, contract, golden
        self._session = session
        self._width = contract.input_size
        self._keys = contract.keys
        self._low, self._high = contract.command_range()

    @classmethod
    def load(cls, path: str | Path, check_golden: bool = True) -> Bundle:
        """Read a bundle folder and check that its parts belong together.

        Args:
            path: the folder.
            check_golden: refuse it unless the recorded actions come out again on this machine.

        Raises:
            RobotrlError: a file is missing, damaged or belongs to another bundle; names it.
        """
        path = Path(path)
        if not path.is_dir():
            raise RobotrlError(f"{path} is not a bundle folder")
        raw = {name: _read(path, name) for name in (CONTRACT_FILE, POLICY_FILE, GOLDEN_FILE)}
        try:
            text = raw[CONTRACT_FILE].decode("utf-8")
        except UnicodeDecodeError as error:
            raise RobotrlError(f"{path / CONTRACT_FILE} is not text: {error}") from error
        contract = Contract.from_json(text, str(path / CONTRACT_FILE))
        _check_hash(path / POLICY_FILE, raw[POLICY_FILE], contract.policy_sha256)
        _check_hash(path / GOLDEN_FILE, raw[GOLDEN_FILE], contract.golden_sha256)
        for name in FURTHER_FILES:  # a robot needs none of them
            if (path / name).exists():
                _check_hash(path / name, _read(path, name), contract.files.get(name))
        session = _session(path / POLICY_FILE, raw[POLICY_FILE])
        _check_session(path, session, contract)
        golden = read_golden(path / GOLDEN_FILE, raw[GOLDEN_FILE], contract)
        bundle = cls(path, contract, golden, session)
        if check_golden:
            worst = action_error(
                contract, bundle(golden["observation"], golden.get("noise")), golden["action"]
            )
            if not worst <= contract.atol:
                raise RobotrlError(
                    f"{path}: the recorded actions do not come out again on this machine: "
                    f"error {worst:.3g}, accepted {contract.atol:.3g}"
                )
        return bundle

    def __call__(self, observation: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """Return the decisions for raw observations.

        Args:
            observation: (D,) or (B, D), in the units and order of `contract.inputs`.
            noise: (k,) or (B, k) standard normal, k = `contract.noise_dim`; only where that is above 0.

        Returns:
            (h*A,) or (B, h*A) float32, each action in the units and order of `contract.outputs`.

        Raises:
            UsageError: wrong shape, noise that is missing or not asked for, or a value that is not
                finite as float32.
            RobotrlError: the network does not run, or returned a value that is not finite or outside its
                limits.
        """
        with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused below
            flat = np.asarray(observation, dtype=np.float32)
        if flat.ndim not in (1, 2) or flat.shape[-1] != self._width:
            raise UsageError(
                f"observations must have shape ({self._width},) or (B, {self._width}), got {flat.shape}"
            )
        # before the network: its clips would turn NaN into a full command
        finite = np.isfinite(flat)
        if not finite.all():
            column = int(np.argwhere(~finite)[0][-1])
            raise UsageError(f"observation {self.contract.label(column)} is not finite")
        feeds = {"obs": np.atleast_2d(flat)}
        if self.contract.noise_dim or noise is not None:
            feeds["noise"] = np.atleast_2d(self._noise(noise, flat.shape[:-1]))
        try:
            action = self._session.run(None, feeds)[0]
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise RobotrlError(f"the network does not run: {' '.join(str(error).split())}") from error
        within = (action >= self._low) & (action <= self._high)  # False for NaN
        if not within.all():
            row, column = np.argwhere(~within)[0]
            raise RobotrlError(self.contract.refusal(int(column), float(action[row, column])))
        return action[0] if flat.ndim == 1 else action

    def observation(self, terms: Mapping[str, Any]) -> np.ndarray:
        """Put observation terms side by side by name, in whatever order they are given.

        Args:
            terms: term name -> values of the term's shape, a bare number where that is (1,). A name
                that several groups share is written "group/name".

        Returns:
            (D,) float32.

        Raises:
            UsageError: a term is missing, unknown or has the wrong shape.
        """
        for name in terms:
            if name not in self._keys:
                raise unknown_name("observation term", name, self._keys)
        flat = np.empty(self._width, dtype=np.float32)
        for name, term in self._keys.items():
            if name not in terms:
                raise UsageError(f"observation term {name!r} ({term.size} x {term.unit}) is missing")
            value = np.asarray(terms[name])
            if value.shape != term.shape and not (value.ndim == 0 and term.shape == (1,)):
                raise UsageError(f"observation term {name!r} must have shape {term.shape}, got {value.shape}")
            flat[term.start : term.start + term.size] = value.reshape(-1)
        return flat

    def _noise(self, noise: np.ndarray | None, batch_shape: tuple[int, ...]) -> np.ndarray:
        """Check noise for observations (*batch_shape, D)."""
        shape = (*batch_shape, self.contract.noise_dim)
        if self.contract.noise_dim == 0:
            raise UsageError("this policy takes no noise, leave it out")
        if noise is None:
            raise UsageError(
                f"this policy decides from noise: also give {shape} standard normal numbers, "
                "or let a BundleController draw them"
            )
        drawn = np.asarray(noise, dtype=np.float32)
        if drawn.shape != shape or not np.isfinite(drawn).all():
            raise UsageError(f"noise must be {shape} finite numbers, got {drawn.shape}")
        return drawn


def action_error(contract: Contract, actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest absolute difference between two sets of decisions, NaN if any is NaN.

    Args:
        contract: what the actions are.
        actual: (..., A), or (..., h*A) of a decision.
        expected: shaped like it.

    In the action's unit; where an action's range is wider than [-1, 1], in units of its half width,
    as a float32 command of 100 N m cannot be exact to 1e-5 N m.
    """
    scale = np.array([max(1.0, term.scale) for term in contract.outputs])
    error = np.abs(actual.astype(np.float64) - expected)
    return float(np.max(error.reshape(-1, len(scale)) / scale))


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        hint = f"; is {folder / 'bundle'} meant?" if (folder / "bundle").is_dir() else ""
        raise RobotrlError(f"{folder} is not a complete bundle: {name} is missing{hint}") from None
    except OSError as error:
        raise RobotrlError(f"cannot read {folder / name}: {error.strerror}") from error


def _check_hash(file: Path, raw: bytes, expected: str | None) -> None:
    actual = hashlib.sha256(raw).hexdigest()
    if actual != expected:
        raise RobotrlError(
            f"{file} was changed or belongs to another bundle: sha256 {actual[:12]}, "
            f"the contract says {str(expected)[:12]}"
        )


def _session(file: Path, raw: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # a policy is small: a pool of threads only adds jitter
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise RobotrlError(
            f"{file} is not a network onnxruntime can run: {' '.join(str(error).split())}"
        ) from error


def _check_session(path: Path, session: onnxruntime.InferenceSession, contract: Contract) -> None:
    """Compare the network's own description with the contract."""
    try:
        inside = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError as error:
        raise RobotrlError(f"the contract inside {path / POLICY_FILE} is not text: {error}") from error
    if inside is None:
        raise RobotrlError(f"{path / POLICY_FILE} carries no robotrl contract: it is a foreign network")
    theirs = Contract.from_json(inside, f"the contract inside {path / POLICY_FILE}")
    ours = contract.inside()
    differing = [
        field.name
        for field in dataclasses.fields(Contract)
        if getattr(ours, field.name) != getattr(theirs, field.name)
    ]
    if differing:
        raise RobotrlError(
            f"{path / CONTRACT_FILE} does not fit {path / POLICY_FILE}: "
            f"they disagree about {', '.join(differing)}"
        )
    inputs = {"obs": contract.input_size}
    if contract.noise_dim:
        inputs["noise"] = contract.noise_dim
    for kind, given, widths in (
        ("input", session.get_inputs(), inputs),
        ("output", session.get_outputs(), {"action": contract.decision_size}),
    ):
        found = [(tensor.name, tensor.type, tensor.shape[1:]) for tensor in given]
        needed = [(name, "tensor(float)", [width]) for name, width in widths.items()]
        if found != needed or not all(isinstance(tensor.shape[0], str) for tensor in given):
            shapes = ", ".join(f"{tensor.name} {tensor.shape} {tensor.type}" for tensor in given)
            wanted = ", ".join(f"{name} ['batch', {width}]" for name, width in widths.items())
            raise RobotrlError(f"{path / POLICY_FILE}: {kind} is {shapes}, needs to be {wanted} float")
