"""How the kernels of this package are compiled, and their random numbers.

Kernels may reorder sums but keep NaN and infinity (no `nnan`, no `ninf`), and do not touch the
process's treatment of denormal numbers. They release the GIL and are kept on disk between processes.
Numba looks only at the file of the outermost kernel to tell whether what it kept is stale, so the
folder is named after the text of the whole package. Where it cannot be written, as in some containers,
every process compiles anew.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

F = TypeVar("F", bound=Callable[..., Any])
Reals = npt.NDArray[Any]
"""float32 or float64: kernels are compiled for either."""
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]

_FAST_MATH = {"contract", "reassoc", "arcp", "nsz"}


_config: Any = numba.config


def _cache_folder() -> str | None:
    """Return where compiled kernels are kept, None where nothing can be."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    text = b"".join(source.read_bytes() for source in sources)
    base = _config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "robotrl" / "kernels" / hashlib.sha256(text).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError as error:
        warnings.warn(
            f"robotrl: compiled kernels cannot be kept in {folder} ({error.strerror}), so that every process "
            "compiles them anew: set XDG_CACHE_HOME to a folder that can be written",
            stacklevel=2,
        )
        return None


_FOLDER = _cache_folder()


def kernel(function: F) -> F:
    """Compile a function of arrays and numbers at its first call, for the types of that call."""
    before = _config.CACHE_DIR
    _config.CACHE_DIR = _FOLDER or before
    try:
        compiled = numba.njit(
            nogil=True, cache=_FOLDER is not None, fastmath=_FAST_MATH, error_model="numpy"
        )(function)
    finally:
        _config.CACHE_DIR = before
    return cast(F, compiled)


def constant(value: int) -> int:
    """Return an integer that kernels share: they would be compiled anew for each plain one in a call."""
    return cast(int, np.int64(value))


def random_state(seed: int, num_streams: int) -> Words:
    """Return the (N, 1) generator states of N streams; stream i's depends on the seed and i only."""
    sequences = (np.random.SeedSequence(seed, spawn_key=(i, 1)) for i in range(num_streams))
    return np.array([sequence.generate_state(1, np.uint64) for sequence in sequences])


@kernel
def uniform(state: Words) -> float:
    """Draw from (0, 1] and advance the (1,) state: SplitMix64 (Steele et al. 2014), 53 bits."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (float(z >> np.uint64(11)) + 1.0) * 2.0**-53


@kernel
def uniform_index(state: Words, count: int) -> int:
    """Draw from 0 .. count - 1 and advance the (1,) state."""
    return min(int(uniform(state) * count), count - 1)


@kernel
def zeta(state: Words, exponent: float) -> int:
    """Draw n >= 1 with probability proportional to n^-exponent, exponent > 1 (Devroye 1986, section X.6)."""
    b = 2.0 ** (exponent - 1.0)
    while True:
        n = np.floor(uniform(state) ** (-1.0 / (exponent - 1.0)))
        t = (1.0 + 1.0 / n) ** (exponent - 1.0)
        # 2^62: beyond it an integer overflows, which happens with exponents next to 1
        if uniform(state) * n * (t - 1.0) * b <= t * (b - 1.0) and n < 2.0**62:
            return int(n)


@kernel
def fill_normal(state: Words, out: Reals) -> None:
    """Fill a vector with standard normal draws (Box & Muller 1958)."""
    for k in range(0, len(out), 2):
        radius = math.sqrt(-2.0 * math.log(uniform(state)))
        angle = 2.0 * math.pi * uniform(state)
        out[k] = radius * math.cos(angle)
        if k + 1 < len(out):
            out[k + 1] = radius * math.sin(angle)
