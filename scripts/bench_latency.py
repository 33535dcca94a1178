"""Time of one decision, batch 1, one thread: torch eager, onnxruntime and emitted C, in the same run.

    python scripts/bench_latency.py

Two policies with 48 observations and 12 actions: an MLP 48-256-256-12, and a flow policy of ten steps over an
MLP 256-256. Contenders take turns, block by block, so that what else the machine does hits all of them; what
counts is the median of the blocks. The bound is the time that reading the weights takes, as often as a
decision reads them: a loop in C that adds up as many numbers, again and again, so that they are in the same
cache.
Writes benchmarks/results/bench_latency.json.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from bench_common import RESULTS, provenance, write_json

from robotrl.core.types import ActionTerm, ObsTerm, Specs
from robotrl.deploy.c_policy import FLAGS, CPolicy, compile_policy
from robotrl.deploy.contract import SCHEMA, Contract
from robotrl.export.c_graph import Operation, read_graph
from robotrl.export.c_source import to_c
from robotrl.export.description import input_terms, output_terms
from robotrl.export.network import PhysicalPolicy, to_onnx
from robotrl.networks.denoiser import Network
from robotrl.policies.flow import FlowConfig, FlowPolicy
from robotrl.policies.gaussian import GaussianConfig, GaussianPolicy
from robotrl.policies.policy import Policy

SPECS = Specs(
    {"policy": (ObsTerm("x", 48, "1"),)},
    tuple(ActionTerm(f"a{i}", "N m", -1.0, 1.0) for i in range(12)),
    0.02,
)
POLICIES: dict[str, Callable[[torch.Generator], Policy]] = {
    "mlp_48_256_256_12": lambda rng: GaussianPolicy(SPECS, GaussianConfig(hidden=[256, 256]), rng),
    "flow_10_steps": lambda rng: FlowPolicy(
        SPECS, FlowConfig(hidden=[256, 256], steps=10, network=Network.MLP), rng
    ),
}
# calls in a block and blocks of every contender
CALLS, BLOCKS = 5, 1000
# timed in C, where no interpreter takes part: decisions, and reading so many numbers
TIMER = r"""
#include "policy.h"
#include <stdlib.h>
#include <time.h>
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}
double time_decisions(const float *observation, const float *noise, float *action, int calls)
{
    double start = now();
    for (int i = 0; i < calls; i++) if (robotrl_decide(observation, noise, action)) abort();
    return (now() - start) / calls;
}
double time_reading(const float *numbers, int count, int calls, float *result)
{
    double start = now();
    for (int c = 0; c < calls; c++) {
        float sum[128] = {0};
        for (int i = 0; i + 128 <= count; i += 128)
            for (int j = 0; j < 128; j++) sum[j] += numbers[i + j];
        for (int j = 0; j < 128; j++) *result += sum[j];
    }
    return (now() - start) / calls;
}
"""


def contract_of(policy: Policy) -> Contract:
    """Return a contract that says no more than the C needs."""
    return Contract(
        schema=SCHEMA,
        created="",
        robotrl_version="",
        git_commit=None,
        mujoco_version=None,
        task={"name": "latency"},
        model_sha256=None,
        control_hz=50.0,
        control_dt_s=0.02,
        physics_dt_s=None,
        inputs=input_terms(SPECS, policy.obs_groups),
        outputs=output_terms(SPECS),
        horizon=policy.horizon,
        noise_dim=policy.noise_dim,
        sampling_steps=policy.sampling_steps,
        atol=1e-5,
        golden_sha256="",
        policy_sha256=None,
        files={},
        robot=None,
        training={},
    )


@dataclasses.dataclass
class Contest:
    """The contenders for one policy.

    Attributes:
        blocks: name -> function that returns seconds per decision, of one block.
        weights: numbers of weights that a decision reads, once per use.
        error: largest difference of the C from torch.
    """

    blocks: dict[str, Callable[[], float]]
    weights: int
    error: float


def per_call(call: Callable[[], Any]) -> Callable[[], float]:
    """Return what times a block of calls from Python, s per call."""

    def block() -> float:
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        return (time.perf_counter() - start) / CALLS

    return block


def prepare(policy: Policy, rng: torch.Generator, folder: Path) -> Contest:
    """Build every contender."""
    policy = policy.eval().requires_grad_(False)
    assert policy.normalizer is not None
    policy.normalizer.update(torch.randn(100, policy.obs_dim, generator=rng))
    eager = PhysicalPolicy(policy).eval()
    flat = torch.randn(64, policy.obs_dim, generator=rng)
    noise = policy.draw_noise((64,), rng) if policy.noise_dim else None
    rows = [flat] if noise is None else [flat, noise]
    action = eager(*rows).numpy()
    contract = contract_of(policy)
    network = to_onnx(policy, contract.to_json())
    golden = {"observation": flat.numpy(), "action": action} | (
        {} if noise is None else {"noise": noise.numpy()}
    )
    source, header = to_c(network, contract, golden)
    (folder / "policy.c").write_text(source + TIMER)
    (folder / "policy.h").write_text(header)
    path = compile_policy(folder, folder / "policy.so")
    compiled, library = CPolicy(path, contract), ctypes.CDLL(str(path))
    error = max(
        float(np.abs(compiled(*(row.numpy() for row in given)) - expected).max())
        for *given, expected in zip(*rows, action, strict=True)
    )

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    first = [row[:1] for row in rows]
    feeds = dict(zip(["obs", "noise"], (row.numpy() for row in first), strict=False))
    single = [row[0].numpy() for row in rows]
    result = np.zeros(contract.decision_size, np.float32)
    kind = ctypes.POINTER(ctypes.c_float)
    both = [*single, np.zeros(1, np.float32)][:2]
    pointers = [array.ctypes.data_as(kind) for array in (*both, result)]
    decide = library.robotrl_decide
    weights = read_weights(network)
    numbers = np.ones(weights // (policy.sampling_steps or 1), np.float32)
    library.time_decisions.restype = library.time_reading.restype = ctypes.c_double
    where = numbers.ctypes.data_as(kind)
    keep = (numbers, *both, result)

    def reading() -> float:
        assert keep  # the pointers lead into them
        once = library.time_reading(where, numbers.size, CALLS, pointers[2])
        return once * weights / numbers.size

    blocks = {
        "torch_eager": per_call(lambda: eager(*first)),
        "onnxruntime": per_call(lambda: session.run(None, feeds)),
        "c_policy": per_call(lambda: compiled(*single)),
        "c_ctypes": per_call(lambda: decide(*pointers)),
        "c_in_c": lambda: library.time_decisions(*pointers, CALLS),
        "reading_the_weights": reading,
    }
    return Contest(blocks, weights, error)


def read_weights(network: bytes) -> int:
    """Return how many weights a decision reads, every use counted."""
    graph = read_graph(onnx.load_from_string(network))
    products = [
        step for step in graph.steps if isinstance(step, Operation) and step.kind in ("Gemm", "MatMul")
    ]
    return sum(
        graph.constants[name].size for step in products for name in step.inputs if name in graph.constants
    )


def run(name: str, blocks: int) -> dict[str, Any]:
    """Measure one policy."""
    rng = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        contest = prepare(POLICIES[name](rng), rng, Path(folder))
        times: dict[str, list[float]] = {contender: [] for contender in contest.blocks}
        for block in range(blocks + 5):
            for contender, measure in contest.blocks.items():
                seconds = measure()
                if block >= 5:  # the first warm caches
                    times[contender].append(seconds)
    median = {contender: statistics.median(found) * 1e6 for contender, found in times.items()}
    return {
        "median_us": median,
        "least_us": {contender: min(found) * 1e6 for contender, found in times.items()},
        "weights_read": contest.weights,
        "bandwidth_gb_s": contest.weights * 4e-3 / median["reading_the_weights"],
        "eager_over_c_ctypes": median["torch_eager"] / median["c_ctypes"],
        "eager_over_c_policy": median["torch_eager"] / median["c_policy"],
        "onnxruntime_over_c_ctypes": median["onnxruntime"] / median["c_ctypes"],
        "c_in_c_over_reading": median["c_in_c"] / median["reading_the_weights"],
        "max_abs_error_of_c": contest.error,
    }


def main() -> None:
    """Measure both policies and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_latency.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True)
    result = {
        "provenance": provenance() | {"cc": compiler.stdout.splitlines()[0], "flags": list(FLAGS)},
        "settings": {"calls_in_a_block": CALLS, "blocks": args.blocks},
        "policies": {name: run(name, args.blocks) for name in POLICIES},
    }
    write_json(args.out, result)
    for name, found in result["policies"].items():
        print(name)
        for key, value in found.items():
            print(f"  {key}: {value}")


if __name__ == "__main__":
    main()
