"""Policies as C: every kind agrees with onnxruntime, NaN is refused under any flag, errors are one line."""

from __future__ import annotations

import copy
import ctypes
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from bundles import KINDS
from onnx import TensorProto, helper, numpy_helper
from test_deploy import contract

from robotrl.core.errors import RobotrlError
from robotrl.deploy.c_policy import FLAGS, CPolicy, compile_policy
from robotrl.deploy.contract import Contract, InputTerm, OutputTerm
from robotrl.export.c_operators import literal
from robotrl.export.c_source import to_c
from robotrl.export.network import PhysicalPolicy
from robotrl.export.noise import SettledNoise
from robotrl.policies.policy import Policy

# between them they have every network and every composite's operators; chunks are the harder case
NOISY = [(kind, 4) for kind in ("flow", "ancestral", "expo", "jitter", "dsrl", "residual")]
# two untrained denoising steps multiply rounding by forty
AMPLIFYING = ("ancestral", "expo")
# seconds of compiling are spent on what the flags cannot change
QUICK = ("-O1", "-Wall", "-Wextra", "-Werror")


def described(width: int, noise_dim: int, out: int, error: float = 1e-5, limit: float = 1.0) -> Contract:
    """A contract of actions within +-limit, whose self-test accepts an error."""
    term = InputTerm("policy", "x", "1", (width,), None, None, (), "sensor", 1.0, 0, "x", 0)
    outputs = tuple(OutputTerm(f"a{i}", "1", -limit, limit, limit, 0.0) for i in range(out))
    return contract(inputs=(term,), outputs=outputs, noise_dim=noise_dim, atol=error / limit)


def compiled(
    folder: Path,
    network: bytes,
    rows: dict[str, np.ndarray],
    flags: tuple[str, ...] = QUICK,
    error: float = 1e-5,
    limit: float = 1.0,
) -> tuple[CPolicy, np.ndarray]:
    """Return a network in C, which has passed its self-test, and what onnxruntime decides for the rows."""
    session = onnxruntime.InferenceSession(network)
    feeds = {("obs" if name == "observation" else name): values for name, values in rows.items()}
    count = len(rows["observation"])
    # an operator under test may need a batch of one
    alone = [session.run(None, {n: v[i : i + 1] for n, v in feeds.items()})[0].ravel() for i in range(count)]
    action = np.stack(alone)
    noise_dim = rows["noise"].shape[1] if "noise" in rows else 0
    made = described(rows["observation"].shape[1], noise_dim, action.shape[1], error, limit)
    source, header = to_c(network, made, {**rows, "action": action})
    folder.mkdir(exist_ok=True)
    (folder / "policy.c").write_text(source)
    (folder / "policy.h").write_text(header)
    return CPolicy(compile_policy(folder, folder / "policy.so", flags), made), action


def decisions(policy: CPolicy, rows: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([policy(*row) for row in zip(*rows.values(), strict=True)])


@pytest.mark.parametrize(("kind", "horizon"), [*((kind, 1) for kind in KINDS), *NOISY])
def test_c_agrees_with_onnxruntime(
    kind: str,
    horizon: int,
    exported: Callable[[str], tuple[Policy, Path]],
    generative: Callable[[str, int], tuple[Policy, Path]],
    tmp_path: Path,
) -> None:
    policy, bundle = exported(kind) if kind in KINDS else generative(kind, horizon)
    rng = torch.Generator().manual_seed(1)
    flat = torch.randn(1000, policy.obs_dim, generator=rng) * 3
    with torch.no_grad():
        noise = SettledNoise(policy, rng).draw(flat)
    network = (bundle / "policy.onnx").read_bytes()
    rows = {"observation": flat.numpy()} | ({} if noise is None else {"noise": noise.numpy()})
    in_c, expected = compiled(tmp_path, network, rows, QUICK, 2e-5 if kind in AMPLIFYING else 1e-5, 4.0)
    actual = decisions(in_c, rows)
    assert expected.std(axis=0).min() > 0.02  # not a constant
    error = np.abs(actual - expected).max(axis=1)
    if kind not in AMPLIFYING:
        assert error.max() <= 1e-5
        return
    # float32 itself is 2e-5 off there: C has to be as close to float64 as onnxruntime is
    assert np.mean(error <= 1e-5) >= 0.995
    with torch.no_grad():
        exact = PhysicalPolicy(copy.deepcopy(policy)).double()(flat.double(), noise.double()).numpy()
    ours, theirs = (np.median(np.abs(values - exact)) for values in (actual, expected))
    assert ours <= 1.2 * theirs


def one_operator(kind: str, shapes: list[tuple[int, ...]], **attributes: object) -> bytes:
    """A network that feeds the observation, reshaped, and constants to one operator."""
    rng = np.random.default_rng(3)
    first, *rest = shapes
    width = math.prod(first)
    constants = [numpy_helper.from_array(np.array(first, np.int64), "first")]
    constants += [
        numpy_helper.from_array(rng.uniform(0.5, 2.0, shape).astype(np.float32), f"x{i}")
        for i, shape in enumerate(rest)
    ]
    nodes = [
        helper.make_node("Reshape", ["obs", "first"], ["x"]),
        helper.make_node(kind, ["x", *(f"x{i}" for i in range(len(rest)))], ["y"], **attributes),
        helper.make_node("Flatten", ["y"], ["action"], axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", None])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


UNARY = (
    "Tanh",
    "Elu",
    "Sigmoid",
    "Gelu",
    "Exp",
    "Erf",
    "Softplus",
    "Mish",
    "Relu",
    "Neg",
    "Abs",
    "Sin",
    "Cos",
)


# of some dozen numbers, in another order
SUMS = ("MatMul", "Gemm")


@pytest.mark.parametrize(
    ("kind", "shapes", "attributes"),
    [
        *((kind, [(1, 401)], {}) for kind in UNARY),
        ("Gelu", [(1, 401)], {"approximate": "tanh"}),
        ("Elu", [(1, 401)], {"alpha": 0.3}),
        ("LeakyRelu", [(1, 401)], {"alpha": 0.2}),
        ("Add", [(1, 3, 1, 5), (4, 1)], {}),
        ("Sub", [(1, 5), (2, 3, 5)], {}),
        ("Div", [(1, 2, 3), (1, 1, 1)], {}),
        ("Pow", [(1, 2, 3), (2, 1)], {}),
        ("Max", [(1, 6), (1, 6)], {}),
        ("MatMul", [(1, 7), (7, 130)], {}),
        ("MatMul", [(1, 5, 7), (7, 3)], {}),
        ("MatMul", [(3, 7), (4, 7, 65)], {}),
        ("MatMul", [(2, 1, 3, 7), (4, 7, 2)], {}),
        ("MatMul", [(1, 5, 7), (7,)], {}),
        ("Gemm", [(1, 5), (5, 3), (1, 3)], {}),
        ("Gemm", [(2, 5), (3, 5), (2, 3)], {"transB": 1}),
        ("LayerNormalization", [(1, 3, 37), (37,), (37,)], {"axis": -1}),
        ("LayerNormalization", [(1, 3, 9), (9,)], {"epsilon": 1e-3}),
        ("Softmax", [(1, 4, 19)], {"axis": -1}),
        ("ArgMax", [(1, 6, 5)], {"axis": 1, "keepdims": 0}),
        ("Transpose", [(1, 6, 5)], {"perm": [2, 0, 1]}),
    ],
)
def test_operator_agrees_with_onnxruntime(
    kind: str, shapes: list[tuple[int, ...]], attributes: dict[str, object], tmp_path: Path
) -> None:
    network = one_operator(kind, shapes, **attributes)
    rng = np.random.default_rng(0)
    width = math.prod(shapes[0])
    rows = rng.normal(0, 3, (20, width))
    if kind in UNARY:
        rows[0] = np.linspace(-60, 60, width)
    if kind in ("Pow", "Exp"):  # of negative numbers undefined, and of large ones
        rows = rng.uniform(0.1, 3.0, (20, width))
    given = {"observation": rows.astype(np.float32)}
    in_c, expected = compiled(tmp_path, with_float_output(network), given, QUICK, 1e-3, 1e30)
    np.testing.assert_allclose(
        decisions(in_c, given), expected, rtol=2e-6, atol=1e-5 if kind in SUMS else 2e-6
    )


def with_float_output(network: bytes) -> bytes:
    """Let an index leave as a float, as every action does."""
    model = onnx.load_from_string(network)
    if model.graph.node[1].op_type == "ArgMax":
        one = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(6, 1).repeat(5, 1), "table")
        model.graph.initializer.append(one)
        model.graph.node[2].input[0] = "picked"
        wide = helper.make_node("Unsqueeze", ["y", "zero"], ["index"])
        model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
        flat = helper.make_node("Squeeze", ["index", "zero"], ["row"])
        pick = helper.make_node("GatherElements", ["table", "row"], ["picked"], axis=0)
        for i, node in enumerate((wide, flat, pick)):
            model.graph.node.insert(2 + i, node)
    return model.SerializeToString()


# what a robot's own program would do; it is a program because a library made with -ffast-math changes how
# the whole process that loads it rounds the smallest numbers
ROBOT = """
#include "policy.h"
#include <stdint.h>
#include <string.h>
int main(void)
{
    const uint32_t bad[] = {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0x7f800000u, 0xff800000u};
    float observation[5], noise[5], action[5];
    if (robotrl_abi() != ROBOTRL_ABI || robotrl_selftest()) return 1;
    for (int b = 0; b < 5; b++)
        for (int i = 0; i < 10; i++) {
            for (int j = 0; j < 5; j++) observation[j] = noise[j] = action[j] = 0.5f;
            memcpy(i < 5 ? observation + i : noise + i - 5, bad + b, 4);
            int expected = i < 5 ? ROBOTRL_BAD_OBSERVATION : ROBOTRL_BAD_NOISE;
            if (robotrl_decide(observation, noise, action) != expected) return 2;
            for (int j = 0; j < 5; j++) if (action[j] != 0.5f) return 3; /* it is left as it was */
        }
    for (int j = 0; j < 5; j++) observation[j] = 3e38f, noise[j] = -3e38f;
    return robotrl_decide(observation, noise, action) == ROBOTRL_BAD_ACTION ? 0 : 4;
}
"""


@pytest.mark.parametrize("flags", [FLAGS, (*FLAGS, "-ffast-math"), ("-Ofast",), ("-O0",)])
def test_nan_is_refused_under_any_flags(flags: tuple[str, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=(8, 5)).astype(np.float32) for name in ("observation", "noise")}
    policy, expected = compiled(tmp_path, overflowing(), rows)
    np.testing.assert_allclose(decisions(policy, rows), expected, atol=1e-6)
    (tmp_path / "robot.c").write_text(ROBOT)
    files = [str(tmp_path / name) for name in ("robot", "robot.c", "policy.c")]
    subprocess.run(["cc", *flags, "-o", *files, "-lm"], check=True)
    assert subprocess.run(files[0]).returncode == 0


def test_what_is_not_finite_is_named(tmp_path: Path) -> None:
    rows = {name: np.ones((2, 5), np.float32) for name in ("observation", "noise")}
    policy, _ = compiled(tmp_path, overflowing(), rows)
    good, huge = np.ones(5), np.full(5, 3e38)
    for observation, noise, message in (
        (np.array([1.0, 1.0, 1.0, 1e300, 1.0]), good, r"observation 'x' \(3\) is not finite"),
        (good, good * np.nan, "noise is not finite"),
        (huge, -huge, "the network's action is not finite, or outside"),
        (np.ones(4), good, r"observations must have shape \(5,\), got \(4,\)"),
        (np.ones((1, 5)), good, r"observations must have shape \(5,\), got \(1, 5\)"),
        (1.0, good, r"observations must have shape \(5,\), got \(\)"),
        (good, None, r"decides from noise of shape \(5,\), got \(0,\)"),
        (good, np.ones(3), r"decides from noise of shape \(5,\), got \(3,\)"),
    ):
        with pytest.raises(RobotrlError, match=message):
            policy(observation, noise)


def overflowing() -> bytes:
    """clip(obs^2 - noise^2, -1, 1): NaN where both are huge."""
    numbers = {"low": np.array(-1.0), "high": np.array(1.0)}
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["obs", "obs"], ["a"]),
            helper.make_node("Mul", ["noise", "noise"], ["b"]),
            helper.make_node("Sub", ["a", "b"], ["c"]),
            helper.make_node("Clip", ["c", "low", "high"], ["action"]),
        ],
        "overflowing",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 5]) for n in ("obs", "noise")],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def test_what_there_is_no_c_for_is_named() -> None:
    golden = {"observation": np.zeros((1, 4), np.float32), "action": np.zeros((1, 4), np.float32)}
    for network, message in (
        (one_operator("Asin", [(1, 4)]), "there is no C for operator Asin; .*leave out --format c"),
        (one_operator("Gemm", [(1, 4), (4, 4)], alpha=2.0), "operator Gemm with alpha=2.0"),
        (one_operator("Max", [(1, 4), (1, 4), (1, 4)]), "operator Max of 3 operands"),
        (one_operator("Softmax", [(2, 2)], axis=0), "operator Softmax not along the last axis"),
    ):
        with pytest.raises(RobotrlError, match=message) as caught:
            to_c(network, described(4, 0, 4), golden)
        assert "\n" not in str(caught.value)


def test_constants_are_exact() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 0x7F800000, 20_000, dtype=np.uint32).view(np.float32)
    strtof = ctypes.CDLL(None).strtof  # Python's own way leads through float64, which rounds twice
    strtof.restype = ctypes.c_float
    back = np.array([strtof(literal(x).encode(), None) for x in numbers], np.float32)
    assert np.array_equal(back.view(np.uint32), numbers.view(np.uint32))
    assert literal(1.0) == "1.0f" and literal(-0.0) == "-0.0f" and literal(1e10) == "1e+10f"


def test_self_test_finds_another_answer(tmp_path: Path) -> None:
    rows = {"observation": np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)}
    policy, expected = compiled(tmp_path, one_operator("Tanh", [(1, 6)]), rows)
    network = one_operator("Tanh", [(1, 6)])
    for column, shift, failed in ((0, 0.0, 0), (2, 2e-5, 4)):
        action = expected.copy()
        action[3, column] += shift
        source, _ = to_c(network, policy.contract, {**rows, "action": action})
        (tmp_path / "policy.c").write_text(source)
        library = compile_policy(tmp_path, tmp_path / f"{failed}.so", QUICK)
        if failed:
            with pytest.raises(RobotrlError, match="fails its self-test on this machine: number 4"):
                CPolicy(library, policy.contract)
        else:
            CPolicy(library, policy.contract)
