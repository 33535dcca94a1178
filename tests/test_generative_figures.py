"""Figures of the evidence on generative policies: calls of networks that happen, steps to a success rate."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from generative_common import flow, rng, specs

from robotrl.algorithms.off_policy.dsrl import DSRL, DSRLConfig
from robotrl.algorithms.off_policy.expo import EXPO, EditKind, EXPOConfig
from robotrl.algorithms.off_policy.fql import FQL, FQLConfig
from robotrl.algorithms.off_policy.qc import QC, QCConfig
from robotrl.algorithms.off_policy.residual import Residual, ResidualConfig
from robotrl.networks.mlp import MLP
from robotrl.policies.policy import Policy

sys.path.append(str(Path(__file__).parent.parent / "scripts"))
from bench_generative_figures import rows_evaluated, steps_to

EXPO_OPTIONS = {"num_samples": 3, "num_edits": 2, "num_critics": 4}
POLICIES = {
    "flow": (lambda base: base, (4, 0)),
    "qc": (lambda base: QC.make_policy(specs(), base, QCConfig(num_samples=6), rng()), (24, 12)),
    "fql": (lambda base: FQL.make_policy(specs(), base, FQLConfig(hidden=[8]), rng()), (1, 0)),
    "expo": (lambda base: EXPO.make_policy(specs(), base, EXPOConfig(**EXPO_OPTIONS), rng()), (14, 20)),
    "jitter": (
        lambda base: EXPO.make_policy(specs(), base, EXPOConfig(edit=EditKind.JITTER, **EXPO_OPTIONS), rng()),
        (12, 20),
    ),
    "dsrl": (lambda base: DSRL.make_policy(specs(), base, DSRLConfig(), rng()), (5, 0)),
    "residual": (lambda base: Residual.make_policy(specs(), base, ResidualConfig(), rng()), (5, 0)),
}


@pytest.mark.parametrize("name", POLICIES)
def test_calls_of_networks_are_those_that_happen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, expected = POLICIES[name]
    policy: Policy = make(flow(steps=4))
    assert rows_evaluated(policy) == expected
    rows, evaluate = [], MLP._finish

    def counted(self: MLP, params: list, x: torch.Tensor, tape: list) -> torch.Tensor:
        rows.append(x.shape[:-1].numel())
        return evaluate(self, params, x, tape)

    monkeypatch.setattr(MLP, "_finish", counted)
    with torch.no_grad():
        policy.act({"policy": torch.zeros(1, 3)}, deterministic=True, rng=rng())
    assert sum(rows) == sum(expected)


def test_steps_to_a_success_rate() -> None:
    at, mean = [0.0, 100.0, 200.0, 300.0], np.array([0.1, 0.4, 0.8, 0.7])
    assert steps_to(0.5, at, mean) == pytest.approx(125.0)
    assert steps_to(0.4, at, mean) == 100.0
    assert steps_to(0.1, at, mean) == 0.0
    assert steps_to(0.8, at, mean) == 200.0
    assert steps_to(0.9, at, mean) is None
