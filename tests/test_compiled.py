"""Compiled updates against the same updates run as they are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from generative_common import rng, specs

from robotrl.algorithms.off_policy.compiled import held_tensors
from robotrl.algorithms.off_policy.expo import EXPO, EXPOConfig
from robotrl.algorithms.off_policy.fql import FQL, FQLConfig
from robotrl.algorithms.off_policy.learner import OffPolicyAlgorithm
from robotrl.algorithms.off_policy.rlpd import RLPD, RLPDConfig
from robotrl.algorithms.off_policy.sac import SAC, SACConfig
from robotrl.core.errors import UsageError
from robotrl.data.replay import Transitions

SPECS = specs()
LEARNERS: dict[str, tuple[type[OffPolicyAlgorithm], type, dict[str, Any], dict[str, Any], int]] = {
    "rlpd": (RLPD, RLPDConfig, {"policy_delay": 2, "num_critics": 3, "hidden": [8]}, {"hidden": [8]}, 2),
    "rlpd_each": (RLPD, RLPDConfig, {"policy_delay": 1, "num_critics": 2, "hidden": [8]}, {"hidden": [8]}, 1),
    "expo": (
        EXPO,
        EXPOConfig,
        {"policy_delay": 1, "num_critics": 4, "hidden": [8], "num_samples": 2, "num_edits": 2},
        {"hidden": [8], "time_dim": 4, "steps": 2},
        1,
    ),
    "fql": (FQL, FQLConfig, {"hidden": [8]}, {"hidden": [8], "steps": 2}, 1),
}
"""name -> algorithm, its configuration's class and options, its policy's options, graphs of its update."""


@pytest.fixture(autouse=True)
def compiler(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import torch._inductor.config as inductor

    folder = tmp_path_factory.getbasetemp() / "inductor"  # one for all, so that headers are compiled once
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with inductor.patch(compile_threads=1):
        yield


def make(name: str, *, compiled: bool, generator: torch.Generator | None = None) -> OffPolicyAlgorithm:
    algorithm, config_class, options, policy_options, _ = LEARNERS[name]
    generator = rng() if generator is None else generator
    policy = algorithm.default_policy
    base = policy(SPECS, policy.config_class(**policy_options), generator)
    config = config_class(compile=compiled, **options)
    return algorithm(SPECS, algorithm.make_policy(SPECS, base, config, generator), config, generator)


def batch(seed: int, n: int = 24) -> Transitions:
    g = rng(seed)
    tensors = (
        torch.randn(n, 3, generator=g, device="cpu"),
        torch.rand(n, 2, generator=g, device="cpu") * 2 - 1,
        torch.randn(n, generator=g, device="cpu"),
        0.99 * (torch.rand(n, generator=g, device="cpu") < 0.7),
        torch.randn(n, 3, generator=g, device="cpu"),
    )
    obs, action, reward, discount, next_obs = (t.to(torch.get_default_device()) for t in tensors)
    return Transitions({"policy": obs}, action, reward, discount, {"policy": next_obs}, torch.ones(n, 1))


def assert_alike(got: Any, expected: Any, where: str = "") -> None:
    """Compare what checkpoints hold: parameters of size 1 within 1e-5, draws and counts exactly."""
    assert type(got) is type(expected), where
    if isinstance(got, torch.Tensor) and got.is_floating_point():
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5, msg=lambda m: f"{where}: {m}")
    elif isinstance(got, torch.Tensor):
        assert torch.equal(got, expected), where
    elif isinstance(got, dict):
        assert list(got) == list(expected), where
        for key in got:
            assert_alike(got[key], expected[key], f"{where}.{key}")
    elif isinstance(got, (list, tuple)):
        for i, pair in enumerate(zip(got, expected, strict=True)):
            assert_alike(*pair, f"{where}.{i}")
    else:
        assert got == expected, where


def learn(
    name: str, generators: tuple[torch.Generator, torch.Generator]
) -> tuple[OffPolicyAlgorithm, OffPolicyAlgorithm]:
    """Train both ways and compare all the while; return the compiled learner and the other."""
    compiled = make(name, compiled=True, generator=generators[0])
    eager = make(name, compiled=False, generator=generators[1])
    start = copy.deepcopy(eager.state_dict())
    for i in range(8):
        assert_alike(compiled.update(batch(i)), eager.update(batch(i)), f"update {i}")
    assert_alike(compiled.state_dict(), eager.state_dict())
    with pytest.raises(AssertionError):
        assert_alike(eager.state_dict(), start)
    # without a break, which reading a number from a tensor would be, and compiled once for each kind of step
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == LEARNERS[name][-1]
    return compiled, eager


@pytest.mark.parametrize("name", ["rlpd", "expo", "fql"])
def test_one_graph_equals_the_update_run_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # traced, differentiated and made free of changes in place, then run kernel by kernel
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    learn(name, (rng(), rng()))


def test_fused_kernels_equal_the_update_run_as_it_is_and_resume_it() -> None:
    compiled, eager = learn("rlpd_each", (rng(), rng()))
    of_compiled, of_eager = copy.deepcopy(compiled.state_dict()), copy.deepcopy(eager.state_dict())
    compiled.load_state_dict(of_eager)
    eager.load_state_dict(of_compiled)
    for i in range(8, 10):
        assert_alike(compiled.update(batch(i)), eager.update(batch(i)), f"update {i}")
    assert_alike(compiled.state_dict(), eager.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", ["rlpd", "fql"])
def test_replayed_cuda_graphs_equal_updates_run_as_they_are(name: str) -> None:
    with torch.device("cuda"):
        learn(name, (torch.Generator("cuda").manual_seed(0), torch.Generator("cuda").manual_seed(0)))
    assert not torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]


@pytest.mark.parametrize("name", LEARNERS)
def test_tensors_of_a_checkpoint_and_room_for_gradients_are_found(name: str) -> None:
    algorithm = make(name, compiled=False)
    algorithm.update(batch(0)), algorithm.update(batch(1))
    found = {tensor.data_ptr() for tensor in held_tensors(algorithm)}
    state = algorithm.state_dict()
    del state["rng"]  # a copy
    assert {tensor.data_ptr() for tensor in held_tensors(state)} <= found
    assert algorithm.critic._grad.data_ptr() in found


def test_a_draw_from_what_was_computed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = make("rlpd", compiled=True)

    def target(batch: Transitions) -> torch.Tensor:
        return torch.multinomial(batch.reward.softmax(0), len(batch.reward), generator=algorithm.rng) * 1.0

    monkeypatch.setattr(algorithm, "target", target)
    with pytest.raises(UsageError, match=r"RLPD draws by multinomial.*leave algorithm.compile at false"):
        algorithm.update(batch(0))


def test_a_missing_compiler_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    policy = SAC.default_policy(SPECS, SAC.default_policy.config_class(hidden=[8]), rng())
    with pytest.raises(UsageError, match=r"compile=true needs a C\+\+ compiler.*install it"):
        SAC(SPECS, policy, SACConfig(hidden=[8], compile=True), rng())
