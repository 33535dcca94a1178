"""One call for a dataset on the disk, whatever it is."""

from __future__ import annotations

from pathlib import Path

from robotrl.core.errors import UsageError
from robotrl.data.dataset import Dataset

_KNOWN = (
    "a Minari folder (NAME-v0 with data/main_data.hdf5), a D4RL file (.hdf5, .h5) or an OGBench one (.npz)"
)


def load_dataset(path: str | Path) -> Dataset:
    """Load a dataset: Minari's layout, D4RL's HDF5 or OGBench's npz.

    Raises:
        UsageError: there is none, it is of another kind, or what it holds cannot be learned from.
        RobotrlError: h5py is not installed.
    """
    path = Path(path)
    if not path.exists():
        file = next((f": {parent} is a file, no folder" for parent in path.parents if parent.is_file()), "")
        raise UsageError(f"dataset {path} does not exist{file}")
    if path.absolute().match("data/main_data.hdf5"):
        raise UsageError(f"{path} is the inside of a Minari dataset: give {path.absolute().parents[1]}")
    # imported late: h5py is an extra
    if path.is_dir() and (path / "data").is_dir():
        from robotrl.data.minari import read_minari

        return read_minari(path)
    if path.suffix in (".hdf5", ".h5"):
        from robotrl.data.d4rl import read_d4rl

        return read_d4rl(path)
    if path.suffix == ".npz":
        from robotrl.data.ogbench import read_ogbench

        return read_ogbench(path)
    raise UsageError(f"{path} is no dataset that is known: expected {_KNOWN}")
