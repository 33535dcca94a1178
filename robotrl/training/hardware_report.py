"""The report's answer to: is this policy safe to try on hardware?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robotrl.deploy.runtime.statistics import DEPLOYMENTS
from robotrl.export.bundle import ROBUSTNESS_FILE, ROBUSTNESS_PICTURE


def hardware_section(
    bundle: Path, contract: Mapping[str, Any], read: Callable[[Path], Any]
) -> dict[str, Any] | None:
    """Collect what deployments and sweeps of a bundle have shown; None for a bundle without a robot.

    Args:
        bundle: the folder.
        contract: of the bundle, as JSON.
        read: reads a JSON file, None for one that is not there.

    Returns:
        "deployment" (the newest one of this very policy, or None), "robustness" (or None), "picture" of the
        sweeps (a path, or None), and "doubts": what speaks against hardware; None while something was not
        measured.
    """
    if contract.get("robot") is None:
        return None
    policy = contract["policy_sha256"]
    records = [read(file) for file in sorted((bundle.parent / DEPLOYMENTS).glob("*.json"))]
    deployment = next((one for one in reversed(records) if one["policy_sha256"] == policy), None)
    robustness = read(bundle / ROBUSTNESS_FILE)
    if robustness is not None and robustness["policy_sha256"] != policy:
        robustness = None
    margin_s = None if robustness is None else robustness["delay_margin_s"]
    picture = bundle / ROBUSTNESS_PICTURE
    doubts = None
    if deployment is not None and margin_s is not None:
        dt_s = contract["control_dt_s"]
        late = f"a delay of {1e3 * margin_s:.3g} ms more takes a fifth of the return, one control step is "
        doubts = [*deployment["doubts"], *([] if margin_s >= dt_s else [f"{late}{1e3 * dt_s:.3g} ms"])]
    return {
        "deployment": deployment,
        "robustness": robustness,
        "picture": picture if robustness is not None and picture.is_file() else None,
        "delay_margin_s": margin_s,
        "doubts": doubts,
    }
