"""GoRL: its first stage is PPO, a refresh imitates and begins anew, all is counted, saved and exported."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from tiny_runs import PENDULUM

from robotrl.algorithms.on_policy.decoder import DecoderConfig, DecoderKind, fit_decoder, make_decoder
from robotrl.algorithms.on_policy.gorl import GoRL, GoRLConfig
from robotrl.algorithms.on_policy.ppo import PPO, PPOConfig
from robotrl.compose import compose
from robotrl.core import checkpoint
from robotrl.core.errors import UsageError
from robotrl.core.types import ActionTerm, ObsTerm, Specs
from robotrl.envs.vec_env import VecEnv
from robotrl.policies.distributions import DiagonalGaussian
from robotrl.policies.gaussian import (
    BetaConfig,
    BetaPolicy,
    GaussianConfig,
    GaussianPolicy,
    SquashedGaussianConfig,
    SquashedGaussianPolicy,
)
from robotrl.tasks.control_suite.pendulum import Pendulum
from robotrl.training.metrics import read_metrics
from robotrl.training.on_policy import OnPolicyLoop
from robotrl.training.train import train

SPECS = Specs(
    {"policy": (ObsTerm("x", 2, "m"),)},
    (ActionTerm("push", "N", -1.0, 1.0), ActionTerm("pull", "N", -1.0, 1.0)),
    control_dt_s=0.02,
)
# an iteration is 4 environments x 8 steps, a 20th of the training
SMALL = {"num_steps": 8, "num_epochs": 2, "minibatch_size": 16, "hidden": [8]}
TOTAL = 640
KINDS = list(DecoderKind)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_loop(algorithm: type[PPO], config: PPOConfig) -> OnPolicyLoop:
    env = VecEnv(Pendulum(episode_length_s=0.4), 4, seed=0, num_threads=1)
    draws = rng(1)
    base = GaussianPolicy(env.specs, GaussianConfig(hidden=[8]), draws)
    policy = algorithm.make_policy(env.specs, base, config, draws)
    return OnPolicyLoop(env, algorithm(env.specs, policy, config, draws), TOTAL, torch_threads=1)


def gorl_loop(kind: DecoderKind = DecoderKind.FLOW, **options) -> OnPolicyLoop:
    decoder = DecoderConfig(kind=kind, hidden=[8], steps=3, batch_size=32, epochs=3)
    options = {"stages": [1.0, 1.0], "data_share": 0.2} | options
    return make_loop(GoRL, GoRLConfig(**SMALL, decoder=decoder, **options))


def tensors(algorithm: PPO) -> list[torch.Tensor]:
    normalizers = [algorithm.policy.normalizer, algorithm.critic_normalizer]
    return [*algorithm.parameters, *(buffer for part in normalizers for buffer in part.buffers())]


def assert_same(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_with_one_stage_it_is_ppo_bit_for_bit():
    ours = gorl_loop(stages=[1.0])
    ppo = make_loop(PPO, PPOConfig(**SMALL))
    for _ in range(5):
        mine, theirs = ours.iterate(), ppo.iterate()
        assert mine.pop("policy/stage") == 0.0
        assert mine == theirs
    assert_same([ours.algorithm.policy.encoder.net.flat], [ppo.algorithm.policy.net.flat])
    assert_same(list(ours.obs.values()), list(ppo.obs.values()))
    assert_same([ours.algorithm.policy.act(ours.obs, True)], [ppo.algorithm.policy.act(ours.obs, True)])


def test_a_stage_learns_then_collects_then_begins_anew():
    """Stages of 10 iterations, the last 4 of the first for data: 6 learn, 4 collect, 10 learn."""
    loop = gorl_loop()
    algorithm = loop.algorithm
    start, policy = [t.clone() for t in tensors(algorithm)], algorithm.policy
    encoder = policy.encoder.net.flat.detach().clone()
    history = []
    for i in range(10):
        before = [t.clone() for t in tensors(algorithm)]
        metrics = loop.iterate()
        history.append("policy/kl" in metrics)
        if 6 <= i < 9:
            assert_same(tensors(algorithm), before)
    assert history == [True] * 6 + [False] * 4
    # the data are environment steps: 4 iterations of 32
    assert loop.env_steps == 320
    assert metrics["policy/decoder_data"] == 128
    assert (algorithm.stage, algorithm.collecting, policy.decodes) == (1, False, True)
    assert policy.decoder.normalizer.count == 128
    # the decoder is in both lists: all but it is as it was
    decoder = {id(p) for p in policy.decoder.parameters()}
    mine = [(t, s) for t, s in zip(tensors(algorithm), start, strict=True) if id(t) not in decoder]
    assert all(torch.equal(t, s) for t, s in mine)
    assert algorithm.optimizer.state_dict()["state"] == {}
    assert algorithm.learning_rate == algorithm.optimizer.param_groups[0]["lr"] == 1e-3

    frozen = [t.clone() for t in policy.decoder.state_dict().values()]
    for _ in range(10):
        metrics = loop.iterate()
        assert "policy/kl" in metrics
        assert metrics["policy/stage"] == 1.0
    assert not torch.equal(policy.encoder.net.flat, encoder)
    assert_same(list(policy.decoder.state_dict().values()), frozen)
    assert loop.progress == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_continues_bit_for_bit_from_the_middle_of_the_data(kind, tmp_path):
    a, b = gorl_loop(kind), gorl_loop(kind)
    for _ in range(8):
        a.iterate()
    assert a.algorithm.collecting
    checkpoint.save(tmp_path / "c", a.state_dict())
    b.load_state_dict(checkpoint.load(tmp_path / "c"))
    for _ in range(4):  # two for data, two in the next stage
        a.iterate(), b.iterate()
    assert a.algorithm.stage == b.algorithm.stage == 1
    assert_same(tensors(a.algorithm), tensors(b.algorithm))
    assert_same(
        [a.env.step(a.algorithm.policy.act(a.obs)).reward], [b.env.step(b.algorithm.policy.act(b.obs)).reward]
    )
    assert torch.equal(a.algorithm.rng.get_state(), b.algorithm.rng.get_state())
    checkpoint.save(tmp_path / "d", b.state_dict())  # with a decoder in use
    c = gorl_loop(kind)
    c.load_state_dict(checkpoint.load(tmp_path / "d"))
    assert_same([c.algorithm.policy.act(b.obs, True)], [b.algorithm.policy.act(b.obs, True)])


def two_modes(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States, and actions at +-(0.6, 0.6), moved by the state a little."""
    draws = rng(seed)
    state = torch.randn(n, 2, generator=draws)
    side = torch.randint(2, (n, 1), generator=draws) * 2.0 - 1.0
    action = 0.6 * side + 0.1 * torch.tanh(state) + 0.05 * torch.randn(n, 2, generator=draws)
    return 3.0 * state + 1.0, action.clamp(-1, 1)


def energy_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of pairs of state and action (Szekely & Rizzo 2013)."""
    pairs = ((x, y), (x, x), (y, y))
    between, within_x, within_y = (torch.cdist(a, b).mean() for a, b in pairs)
    return float(2 * between - within_x - within_y)


@pytest.mark.parametrize("kind", KINDS)
def test_the_prior_decodes_to_the_data(kind):
    config = DecoderConfig(kind=kind, hidden=[32, 32], learning_rate=3e-3, batch_size=256, epochs=200)
    decoder = make_decoder(SPECS, ["policy"], True, config, rng(0))
    flat, action = two_modes(4000, seed=1)
    fresh = copy.deepcopy(decoder)
    metrics = fit_decoder(decoder, flat, action, config, rng(2))
    state, expected = two_modes(1000, seed=3)
    distance = {
        name: energy_distance(torch.cat([state / 3, g(state, torch.randn(1000, 2, generator=rng(4)))], 1),
                              torch.cat([state / 3, expected], 1))
        for name, g in (("fresh", fresh), ("fitted", decoder))
    }  # fmt: skip
    assert metrics["loss/decoder"].isfinite()
    if kind is DecoderKind.GAUSSIAN:  # one mode cannot be two
        assert distance["fitted"] > 0.02
    else:
        assert distance["fitted"] < min(0.01, 0.1 * distance["fresh"])


def test_decoders_of_one_width_are_of_one_size():
    sizes = {
        kind: sum(p.numel() for p in make_decoder(SPECS, ["policy"], True, config, rng(0)).parameters())
        for kind in KINDS
        for config in [DecoderConfig(kind=kind)]
    }
    assert max(sizes.values()) < 1.2 * min(sizes.values())


def test_fitting_ends_early_and_keeps_the_best_weights():
    config = DecoderConfig(hidden=[64, 64], learning_rate=1e-2, batch_size=20, epochs=200, patience=5)
    decoder = make_decoder(SPECS, ["policy"], True, config, rng(0))
    flat, action = two_modes(80, seed=1)
    draws = rng(2)
    order = torch.randperm(80, generator=draws)
    noise = rng(int(torch.randint(2**31, (), generator=draws)))
    metrics = fit_decoder(decoder, flat, action, config, rng(2))
    assert 5 < metrics["policy/decoder_epochs"] < 200
    held_out = order[:8]
    loss = decoder.bc_loss(decoder.normalize(flat[held_out]), action[held_out], noise).mean().item()
    assert metrics["loss/decoder"] == pytest.approx(loss, rel=1e-6)


def test_the_pull_towards_the_prior_by_hand_and_not_before_there_is_one():
    algorithm = gorl_loop(prior_coef=0.5).algorithm
    distribution = DiagonalGaussian(torch.tensor([[1.0], [3.0]]), torch.log(torch.tensor([2.0])))
    assert algorithm.regularization(distribution) == 0.0
    algorithm.stage = 1
    # 0.5 (mean(1, 9) + 4)
    assert algorithm.regularization(distribution).item() == pytest.approx(4.5)


@pytest.mark.parametrize("kind", [DecoderKind.FLOW, DecoderKind.DIFFUSION])
def test_a_run_is_exported_and_verified_with_its_decoder(kind, tmp_path):
    words = [word for word in PENDULUM if word not in ("algorithm=ppo", "total_steps=128")]
    words += [
        "algorithm=gorl",
        "algorithm.stages=[1,1]",
        "algorithm.data_share=0.25",
        f"algorithm.decoder.kind={kind.value}",
        "algorithm.decoder.hidden=[8]",
        "algorithm.decoder.steps=3",
        "algorithm.decoder.epochs=2",
        "total_steps=256",
        "torch_threads=1",
        f"runs_dir={tmp_path}",
    ]
    run = train(compose(words), show_progress=False)
    checks = json.loads((run / "bundle" / "verification.json").read_text())
    assert all(check["passed"] for check in checks)
    (refresh,) = [row for row in read_metrics(run / "metrics.csv") if "loss/decoder" in row]
    assert (refresh["env_steps"], refresh["policy/decoder_data"]) == (128, 64)


def test_an_encoder_that_is_bounded_is_refused():
    for policy in (
        BetaPolicy(SPECS, BetaConfig(hidden=[8]), rng()),
        SquashedGaussianPolicy(SPECS, SquashedGaussianConfig(hidden=[8]), rng()),
    ):
        with pytest.raises(UsageError, match=r"GoRL needs a Gaussian that is not squashed .*policy=gaussian"):
            GoRL.make_policy(SPECS, policy, GoRLConfig(), rng())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": []}, "stages: give at least one length"),
        ({"stages": [1.0, 0.0]}, "each above 0"),
        ({"stages": [1.0, float("nan")]}, "each above 0"),
        ({"stages": [3.0, 1.0], "data_share": 0.25}, "data_share 0.25 must be below .* 0.25"),
        ({"data_share": 0.0}, "data_share must be above 0"),
        ({"prior_coef": -1.0}, "prior_coef"),
    ],
)
def test_impossible_stages_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GoRLConfig(**options)


def test_a_training_too_short_for_its_stages_is_refused():
    algorithm = gorl_loop(stages=[1.0, 1.0, 2.0], data_share=0.05).algorithm
    algorithm.check_length(20.0)  # 0.05 of them are one rollout
    with pytest.raises(UsageError, match=r"make 19 rollouts .* it takes 20 for each of the 3 stages"):
        algorithm.check_length(19.0)
    gorl_loop(stages=[1.0]).algorithm.check_length(0.5)


@pytest.mark.parametrize("options", [{"validation_share": 1.0}, {"epochs": 0}, {"learning_rate": 0.0}])
def test_impossible_fits_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DecoderConfig(**options)
