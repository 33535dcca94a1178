"""Write a bundle: the policy as one verified folder that a robot can run."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from robotrl import __version__
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.git import git_state
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.contract import (
    C_HEADER_FILE,
    CONTRACT_FILE,
    FILES,
    FURTHER_FILES,
    GOLDEN_FILE,
    POLICY_FILE,
    SCHEMA,
    Contract,
)
from robotrl.envs.env import AnyTask, specs_of
from robotrl.envs.foreign.task import ForeignTask
from robotrl.export.description import (
    describe_physics,
    describe_task,
    input_terms,
    output_terms,
    refuse_simulation_only,
)
from robotrl.export.formats import check_formats, format_error, further_files
from robotrl.export.golden import record
from robotrl.export.network import to_onnx
from robotrl.export.robot import describe_robot
from robotrl.policies.policy import Policy

ATOL = 1e-5
# what a verification may leave in the folder; it is void once the bundle is replaced
VERIFICATION_FILE, ROBUSTNESS_FILE, ROBUSTNESS_PICTURE = (
    "verification.json",
    "robustness.json",
    "robustness.png",
)
VERIFICATION_FILES = (VERIFICATION_FILE, ROBUSTNESS_FILE, ROBUSTNESS_PICTURE)


def export_policy(
    policy: Policy,
    task: AnyTask,
    out: Path,
    *,
    provenance: Mapping[str, Any],
    allow_simulation_only: bool = False,
    formats: Iterable[str] = (),
) -> Path:
    """Write the bundle of a policy into folder `out`, complete and checked or not at all.

    The bundle is written next to `out`, loaded through onnxruntime, compared with the recorded
    behaviour and only then moved into place. A bundle that lies there is replaced as a whole.

    Args:
        policy: what to export; it is not changed.
        task: what it was trained in.
        out: the folder to make.
        provenance: plain data about the training (algorithm, seed, env_steps, return_mean, task_name).
        allow_simulation_only: export although the policy needs what no robot can measure.
        formats: beside ONNX, see `FORMATS`.

    Returns:
        `out`.

    Raises:
        UsageError: something else lies at `out`, an observation exists in simulation only, or there is no
            such format or no C compiler to prove the C with.
        RobotrlError: the policy does not fit the task, cannot be exported, or a format disagrees with it.
    """
    out = Path(out)
    wanted = check_formats(formats)
    _refuse_foreign(out)
    difference = policy.specs.difference(specs_of(task))
    if difference is not None:
        raise RobotrlError(f"the policy was made for another task than {type(task).__name__}: {difference}")
    check_exportable(policy, task, allow_simulation_only)
    contract = _describe(policy, task, provenance)
    policy = copy.deepcopy(policy).cpu().eval()
    recorded = record(policy, task)
    golden = io.BytesIO()
    np.savez_compressed(golden, **recorded)  # type: ignore[arg-type]
    contract = dataclasses.replace(contract, golden_sha256=hashlib.sha256(golden.getvalue()).hexdigest())
    network = to_onnx(policy, contract.to_json())
    further = further_files(wanted, policy, network, contract, recorded)
    contract = dataclasses.replace(
        contract,
        policy_sha256=hashlib.sha256(network).hexdigest(),
        files={name: hashlib.sha256(content).hexdigest() for name, content in further.items()},
    )
    parts = {
        **further,
        POLICY_FILE: network,
        GOLDEN_FILE: golden.getvalue(),
        CONTRACT_FILE: contract.to_json().encode("utf-8"),
    }
    try:
        _write_folder(out, parts, _prove)
    except OSError as error:
        raise RobotrlError(f"cannot write the bundle {out}: {error.strerror or error}") from error
    return out


def _describe(policy: Policy, task: AnyTask, provenance: Mapping[str, Any]) -> Contract:
    """Return the contract of a policy, still without the checksums of its files."""
    return Contract(
        schema=SCHEMA,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        robotrl_version=__version__,
        git_commit=git_state().get("git_commit"),
        task=describe_task(task, str(provenance.get("task_name") or type(task).__name__)),
        **describe_physics(task, policy.specs),
        inputs=input_terms(policy.specs, policy.obs_groups),
        outputs=output_terms(policy.specs),
        horizon=policy.horizon,
        noise_dim=policy.noise_dim,
        sampling_steps=policy.sampling_steps,
        atol=ATOL,
        golden_sha256="",
        policy_sha256=None,
        files={},
        robot=None if isinstance(task, ForeignTask) else describe_robot(task, policy.specs),
        training=dict(provenance),
    )


def _prove(folder: Path) -> None:
    """Raise RobotrlError unless every format returns the recorded decisions."""
    bundle = Bundle.load(folder)
    for file in sorted(bundle.contract.files.keys() - {C_HEADER_FILE}):
        error = format_error(bundle, file)
        if not error <= bundle.contract.atol:
            raise RobotrlError(
                f"{file} does not return the recorded actions: error {error:.3g}, "
                f"accepted {bundle.contract.atol:.3g}"
            )


def check_exportable(policy: Policy, task: AnyTask, allow_simulation_only: bool = False) -> None:
    """Refuse what `export_policy` would refuse, before anything is trained.

    Raises:
        UsageError: an observation exists in simulation only.
        RobotrlError: the task cannot be rebuilt from its import path and options.
    """
    if not allow_simulation_only:
        refuse_simulation_only(input_terms(policy.specs, policy.obs_groups))
    describe_task(task, type(task).__name__)


def _refuse_foreign(out: Path) -> None:
    """Raise unless `out` is free, an empty folder or a bundle with nothing else in it."""
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise UsageError(f"{out} exists and is not a bundle folder: choose another place")
    names = {entry.name for entry in out.iterdir()}
    if not names:
        return
    foreign = sorted(names - {*FILES, *FURTHER_FILES, *VERIFICATION_FILES})
    if foreign:
        raise UsageError(
            f"{out} contains {foreign[0]!r}, which is not part of a bundle: choose another place"
        )
    try:
        Contract.from_json((out / CONTRACT_FILE).read_text(encoding="utf-8"), CONTRACT_FILE)
    except (OSError, UnicodeDecodeError, RobotrlError) as error:
        raise UsageError(
            f"{out} exists and is not a readable bundle ({error}): choose another place"
        ) from error


def _write_folder(out: Path, parts: Mapping[str, bytes], check: Callable[[Path], Any]) -> None:
    """Write `parts` beside `out`, check them there, then put them in its place."""
    token = secrets.token_hex(4)
    fresh = out.with_name(f".{out.name}.{token}.new")
    previous = out.with_name(f".{out.name}.{token}.previous")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        fresh.mkdir()
        for name, content in parts.items():
            with (fresh / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        check(fresh)
        if not out.exists():
            os.replace(fresh, out)
            return
        _refuse_foreign(out)  # it may have changed meanwhile
        os.replace(out, previous)
        try:
            os.replace(fresh, out)
        except BaseException:
            os.replace(previous, out)
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(previous, ignore_errors=True)
