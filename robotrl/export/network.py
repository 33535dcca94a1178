"""From a torch policy to ONNX: normalisation, network, squashing and action scaling in one graph."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robotrl.core.errors import RobotrlError
from robotrl.deploy.contract import METADATA_KEY, scale_offset
from robotrl.policies.policy import Policy


class PhysicalPolicy(nn.Module):
    """A policy whose decisions are in physical units: offset + scale * policy(obs), action by action.

    Args:
        policy: to wrap, not copied.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        pairs = [scale_offset(term.low, term.high) for term in policy.specs.action] * policy.horizon
        self.register_buffer("scale", torch.tensor([scale for scale, _ in pairs], dtype=torch.float32))
        self.register_buffer("offset", torch.tensor([offset for _, offset in pairs], dtype=torch.float32))

    def forward(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map raw observations (B, D), and noise where the policy takes it, to commands (B, h*A)."""
        return self.commands(self.decide(obs, noise))

    def decide(self, obs: Tensor, noise: Tensor | None) -> Tensor:
        """Map the same to decisions (B, h*A) in [-1, 1]."""
        return self.policy(obs) if noise is None else self.policy(obs, noise)

    def commands(self, decision: Tensor) -> Tensor:
        """Map decisions (B, h*A) in [-1, 1] to physical units."""
        return self.offset + self.scale * decision


def sample_inputs(policy: Policy) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Return inputs to trace a policy with, observations and perhaps noise, and which size may vary."""
    widths = [policy.obs_dim, policy.noise_dim] if policy.noise_dim else [policy.obs_dim]
    batch = torch.export.Dim("batch")
    return tuple(torch.zeros(2, width) for width in widths), tuple({0: batch} for _ in widths)


def to_onnx(policy: Policy, contract_json: str) -> bytes:
    """Return a self-contained ONNX model with input "obs" (batch, D) and output "action" (batch, h*A).

    A policy that decides from noise has a second input "noise" (batch, noise_dim).

    Args:
        policy: on the CPU, in evaluation mode.
        contract_json: goes into the model's metadata, so that the file alone explains itself.

    Raises:
        RobotrlError: torch cannot export the policy.
    """
    inputs, batch = sample_inputs(policy)
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                PhysicalPolicy(policy).eval(),
                inputs,
                input_names=["obs", "noise"][: len(inputs)],
                output_names=["action"],
                dynamic_shapes=batch,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise RobotrlError(f"{type(policy).__name__} does not export to ONNX: {reason}") from error
    assert program is not None  # None only where a file name is given
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces with paths of this machine
    program.model.metadata_props[METADATA_KEY] = contract_json
    return program.model_proto.SerializeToString()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks about packages and optimisations it does without."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
