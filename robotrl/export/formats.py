"""The same policy in further formats, each proven against the bundle's recordings."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from robotrl.core.errors import RobotrlError, unknown_name
from robotrl.deploy.bundle import Bundle, action_error
from robotrl.deploy.c_policy import CPolicy, compile_policy
from robotrl.deploy.contract import C_FILE, C_HEADER_FILE, PT2_FILE, Contract
from robotrl.export.c_source import to_c
from robotrl.export.network import PhysicalPolicy, sample_inputs
from robotrl.policies.policy import Policy

FORMATS = ("onnx", "c", "pt2")
"""ONNX, which every bundle has; C source; a program of `torch.export`."""


def check_formats(names: Iterable[str]) -> frozenset[str]:
    """Return the formats that a bundle is to have.

    Raises:
        UsageError: there is no such format.
    """
    for name in names:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
    return frozenset(names) | {"onnx"}


def further_files(
    formats: frozenset[str],
    policy: Policy,
    network: bytes,
    contract: Contract,
    golden: Mapping[str, np.ndarray],
) -> dict[str, bytes]:
    """Write a policy in formats beside ONNX.

    Args:
        formats: as `check_formats` returns them.
        policy: on the CPU, in evaluation mode.
        network: the same in ONNX.
        contract: of the bundle.
        golden: recorded decisions.

    Returns:
        File name -> content.

    Raises:
        RobotrlError: the policy cannot be written in a format; says why.
    """
    files: dict[str, bytes] = {}
    if "c" in formats:
        source, header = to_c(network, contract, golden)
        files |= {C_FILE: source.encode("ascii"), C_HEADER_FILE: header.encode("utf-8")}
    if "pt2" in formats:
        files[PT2_FILE] = _to_pt2(policy)
    return files


def _to_pt2(policy: Policy) -> bytes:
    """Return a program of `torch.export` that takes any batch size."""
    inputs, batch = sample_inputs(policy)
    with torch.no_grad():
        program = torch.export.export(PhysicalPolicy(policy).eval(), inputs, dynamic_shapes=batch)
    for node in program.graph.nodes:
        for told in ("stack_trace", "nn_module_stack", "source_fn_stack"):  # paths of this machine
            node.meta.pop(told, None)
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def format_error(bundle: Bundle, file: str) -> float:
    """Return the largest error of a further format over the recorded decisions, see `action_error`.

    Args:
        bundle: that has it.
        file: `policy.c` or `policy.pt2`.

    Raises:
        RobotrlError: it does not run here; says why.
    """
    observation, noise = bundle.golden["observation"], bundle.golden.get("noise")
    decide = _run_c if file == C_FILE else _run_pt2
    return action_error(bundle.contract, decide(bundle, observation, noise), bundle.golden["action"])


def _run_c(bundle: Bundle, observation: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        compiled = CPolicy(compile_policy(bundle.path, Path(folder) / "policy.so"), bundle.contract)
        rows = zip(observation, [None] * len(observation) if noise is None else noise, strict=True)
        return np.stack([compiled(*row) for row in rows])


def _run_pt2(bundle: Bundle, observation: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
    inputs = [torch.from_numpy(values) for values in (observation, noise) if values is not None]
    try:
        program = torch.export.load(bundle.path / PT2_FILE).module()
        with torch.no_grad():
            return program(*inputs).numpy()
    except (RuntimeError, ValueError, KeyError) as error:
        raise RobotrlError(
            f"{bundle.path / PT2_FILE} does not run: {' '.join(str(error).split())}"
        ) from error
