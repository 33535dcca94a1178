"""From a torch policy to ONNX: normalisation, network, squashing and action scaling in one graph."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from robotrl.core.errors import RobotrlError
from robotrl.deploy.contract import METADATA_KEY, scale_offset
from robotrl.policies.policy import Policy


class PhysicalPolicy(nn.Module):
    """A policy whose actions are in physical units: offset + scale * policy(obs).

    Args:
        policy: to wrap, not copied.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        pairs = [scale_offset(term.low, term.high) for term in policy.specs.action]
        self.register_buffer("scale", torch.tensor([scale for scale, _ in pairs], dtype=torch.float32))
        self.register_buffer("offset", torch.tensor([offset for _, offset in pairs], dtype=torch.float32))

    def forward(self, obs: Tensor) -> Tensor:
        """Map raw (B, D) observations to (B, A) commands in physical units."""
        return self.offset + self.scale * self.policy(obs)


def to_onnx(policy: Policy, contract_json: str) -> bytes:
    """Return a self-contained ONNX model with input "obs" (batch, D) and output "action" (batch, A).

    Args:
        policy: on the CPU, in evaluation mode.
        contract_json: goes into the model's metadata, so that the file alone explains itself.

    Raises:
        RobotrlError: torch cannot export the policy.
    """
    example = torch.zeros(2, policy.obs_dim)
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                PhysicalPolicy(policy).eval(),
                (example,),
                input_names=["obs"],
                output_names=["action"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
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
