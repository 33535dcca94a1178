"""The recordings in a bundle: observations, the noise and decisions that go with them, a closed loop."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from robotrl.core.errors import RobotrlError
from robotrl.deploy.contract import Contract


def read_golden(file: Path, raw: bytes, contract: Contract) -> dict[str, np.ndarray]:
    """Read recordings and check their observations, noise and decisions.

    Args:
        file: named in errors.
        raw: its content.
        contract: says how wide they are.

    Raises:
        RobotrlError: not an archive of arrays, or one is missing or has another shape or type.
    """
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            golden = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RobotrlError(f"{file} is not an archive of arrays: {error}") from error
    check_decisions(file, golden, contract)
    return golden


def check_decisions(
    file: Path, arrays: Mapping[str, np.ndarray], contract: Contract, prefix: str = "", min_rows: int = 1
) -> None:
    """Refuse recordings that do not hold an observation, its noise and its decision in each row.

    Args:
        file: named in errors.
        arrays: the recordings.
        contract: says how wide they are.
        prefix: of the names, "loop_" for the closed-loop episode.
        min_rows: how many there must be.

    Raises:
        RobotrlError: an array is missing or has another shape or type.
    """
    widths = {"observation": contract.input_size, "action": contract.decision_size}
    if contract.noise_dim:
        widths["noise"] = contract.noise_dim
    for name, width in widths.items():
        check_array(file, arrays, prefix + name, (width,), min_rows)
    rows = {name: len(arrays[prefix + name]) for name in widths}
    if len(set(rows.values())) > 1:
        raise RobotrlError(f"{file}: recordings of unequal length: {rows}")


def check_array(
    file: Path, arrays: Mapping[str, np.ndarray], name: str, row: tuple[int, ...], min_rows: int = 1
) -> None:
    """Refuse recordings whose array `name` is not finite float32 with rows of shape `row`.

    Actions may hold NaN: they are compared, and NaN never compares well.
    """
    array = arrays.get(name)
    if array is None:
        raise RobotrlError(f"{file}: {name} is missing")
    if (
        array.dtype != np.float32
        or array.ndim != 1 + len(row)
        or array.shape[1:] != row
        or len(array) < min_rows
    ):
        raise RobotrlError(
            f"{file}: {name} is {array.dtype} {array.shape}, needs float32, {min_rows}+ rows of {row}"
        )
    if name.endswith(("observation", "noise")) and not np.isfinite(array).all():
        raise RobotrlError(f"{file}: {name} holds values that are not finite")
