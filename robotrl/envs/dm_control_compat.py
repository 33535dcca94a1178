"""Load dm_control's own suite beside MuJoCo 4: the reference our control-suite tasks are checked against."""

from __future__ import annotations

import warnings
from types import ModuleType

import mujoco

from robotrl.core.errors import RobotrlError


def load_suite() -> ModuleType:
    """Return `dm_control.suite`, made to work with the installed MuJoCo.

    dm_control 1.0.50 carries a table of array fields from MuJoCo 3.17 and reads every one of them, so
    fields that MuJoCo has since dropped are taken out of the table.

    Raises:
        RobotrlError: dm_control is not installed.
    """
    try:
        with warnings.catch_warnings():
            # only dm_control's viewer needs the display that it misses here
            warnings.simplefilter("ignore", UserWarning)
            from dm_control import suite
            from dm_control.mujoco.wrapper.mjbindings import sizes
    except ModuleNotFoundError as error:
        raise RobotrlError(
            f"dm_control cannot be imported ({error}): pip install 'dm_control>=1.0.50'"
        ) from error
    structs = {"mjmodel": mujoco.MjModel, "mjdata": mujoco.MjData}
    for name, struct in structs.items():
        fields = sizes.array_sizes[name]
        for field in [field for field in fields if not hasattr(struct, field)]:
            del fields[field]
    return suite
