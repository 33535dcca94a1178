"""Run a bundle's policy from its C source: a compiler on the machine that builds, nothing on the robot."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.contract import C_FILE, Contract

ABI = 1
FLAGS = ("-O3", "-march=native")
_FLOATS = ctypes.POINTER(ctypes.c_float)
_OK, _BAD_OBSERVATION, _BAD_NOISE = 0, 1, 2


def compile_policy(bundle: Path, library: Path, flags: Sequence[str] = FLAGS) -> Path:
    """Compile the C source of a bundle into a shared library.

    The compiler is `cc`, or what the environment variable CC names.

    Args:
        bundle: the folder.
        library: the file to make, replaced if it is there.
        flags: of the compiler; `-march=native` is right only on the machine that runs the library.

    Returns:
        `library`.

    Raises:
        UsageError: the bundle has no C source, or there is no compiler.
        RobotrlError: it does not compile.
    """
    source = Path(bundle) / C_FILE
    if not source.is_file():
        raise UsageError(f"{bundle} has no {C_FILE}: export it with --format onnx,c")
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise UsageError(f"no C compiler {compiler!r} here: install gcc or clang, or set CC")
    fresh = library.with_name(f".{library.name}.{os.getpid()}.new")
    command = [compiler, *flags, "-fPIC", "-shared", "-o", str(fresh), str(source), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            first = next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
            raise RobotrlError(f"{source} does not compile: {first}")
        os.replace(fresh, library)
    except OSError as error:
        raise RobotrlError(f"cannot compile {source}: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)
    return library


class CPolicy:
    """A compiled policy; one decision at a time, called as a `Bundle` is.

    Not for several threads at once: a call writes into memory of this object.

    Args:
        library: that `compile_policy` made; it is loaded, so that it runs code of its maker.
        contract: of the bundle it belongs to.

    Raises:
        RobotrlError: it is no such library, is of another bundle, or fails its self-test on this machine.
    """

    def __init__(self, library: Path, contract: Contract) -> None:
        self.contract = contract
        try:
            # a name without a folder would be searched for among the system's libraries
            loaded = ctypes.CDLL(str(Path(library).resolve()))
            loaded.robotrl_contract.restype = ctypes.c_char_p
            abi, text = loaded.robotrl_abi(), loaded.robotrl_contract().decode("utf-8")
            self._decide, selftest = loaded.robotrl_decide, loaded.robotrl_selftest
        except (OSError, AttributeError) as error:
            raise RobotrlError(f"{library} is no compiled policy: {' '.join(str(error).split())}") from error
        if abi != ABI:
            raise RobotrlError(f"{library} has version {abi} of the interface, this robotrl calls {ABI}")
        if Contract.from_json(text, f"the contract inside {library}") != contract.inside():
            raise RobotrlError(f"{library} was compiled from another bundle")
        failed = selftest()
        if failed:
            raise RobotrlError(f"{library} fails its self-test on this machine: number {failed}")
        self._observation = np.zeros(contract.input_size, np.float32)
        self._noise = np.zeros(contract.noise_dim, np.float32)
        self._action = np.zeros(contract.decision_size, np.float32)
        arrays = (self._observation, self._noise, self._action)
        self._pointers = tuple(array.ctypes.data_as(_FLOATS) for array in arrays)

    def __call__(self, observation: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """Return the decision for a raw observation.

        Args:
            observation: (D,), in the units and order of `contract.inputs`.
            noise: (k,) standard normal, k = `contract.noise_dim`; only where that is above 0.

        Returns:
            (h*A,) float32, each action in the units and order of `contract.outputs`.

        Raises:
            UsageError: wrong shape, noise that is missing or not asked for, or a value that is not finite.
            RobotrlError: the network returned a value that is not finite, or outside its limits.
        """
        if np.shape(observation) != self._observation.shape:
            raise UsageError(
                f"observations must have shape {self._observation.shape}, got {np.shape(observation)}"
            )
        drawn = (0,) if noise is None else np.shape(noise)
        if drawn != self._noise.shape:
            raise UsageError(
                f"this policy decides from noise of shape {self._noise.shape}, got {drawn}: give that many "
                "standard normal numbers, and none where it is (0,)"
            )
        _fill(self._observation, observation)
        if noise is not None:
            _fill(self._noise, noise)
        status = self._decide(*self._pointers)
        if status == _BAD_OBSERVATION:
            column = int(np.argmin(np.isfinite(self._observation)))
            raise UsageError(f"observation {self.contract.label(column)} is not finite")
        if status == _BAD_NOISE:
            raise UsageError("noise is not finite")
        if status != _OK:
            raise RobotrlError("the network's action is not finite, or outside its limits")
        return self._action.copy()


def _fill(target: np.ndarray, values: np.ndarray) -> None:
    if isinstance(values, np.ndarray) and values.dtype == np.float32:
        target[:] = values
        return
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused
        target[:] = values
