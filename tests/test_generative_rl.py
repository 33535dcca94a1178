"""EXPO, QC, IDQL and FQL: what they choose, aim at and learn; see also `test_generative_updates`."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from test_off_policy import SPECS, random_batch, rng

from robotrl.algorithms.off_policy.config import OffPolicyConfig, Preset
from robotrl.algorithms.off_policy.expo import EXPO, EditKind, EXPOConfig
from robotrl.algorithms.off_policy.fql import FQL, FQLConfig
from robotrl.algorithms.off_policy.idql import IDQL, IDQLConfig, expectile_loss
from robotrl.algorithms.off_policy.qc import QC, QCConfig
from robotrl.core.errors import UsageError
from robotrl.data.replay import Transitions
from robotrl.networks.normalizer import RunningNormalizer
from robotrl.policies.deterministic import DeterministicConfig, DeterministicPolicy
from robotrl.policies.diffusion import DiffusionConfig, DiffusionPolicy
from robotrl.policies.flow import FlowConfig, FlowPolicy
from robotrl.policies.gaussian import (
    GaussianConfig,
    GaussianPolicy,
    SquashedGaussianConfig,
    SquashedGaussianPolicy,
)

SMALL = {"hidden": [16, 16], "learning_rate": 1e-2, "tau": 0.1}


def flow(normalize_obs: bool = False, **options) -> FlowPolicy:
    config = FlowConfig(hidden=[16, 16], steps=4, normalize_obs=normalize_obs, **options)
    return FlowPolicy(SPECS, config, rng(0))


def diffusion(normalize_obs: bool = False) -> DiffusionPolicy:
    config = DiffusionConfig(hidden=[16, 16], time_dim=8, steps=4, normalize_obs=normalize_obs)
    return DiffusionPolicy(SPECS, config, rng(0))


def gaussian(normalize_obs: bool = False) -> SquashedGaussianPolicy:
    config = SquashedGaussianConfig(hidden=[16], normalize_obs=normalize_obs)
    return SquashedGaussianPolicy(SPECS, config, rng(0))


def unsquashed(normalize_obs: bool = False) -> GaussianPolicy:
    return GaussianPolicy(SPECS, GaussianConfig(hidden=[16], normalize_obs=normalize_obs), rng(0))


def make(algorithm, base, config: OffPolicyConfig):
    return algorithm(SPECS, algorithm.make_policy(SPECS, base, config, rng(1)), config, rng(2))


FEW = {"policy_delay": 1, "num_critics": 4, "num_samples": 3, "num_edits": 2}
CASES = {
    "expo": (EXPO, EXPOConfig(**SMALL, **FEW)),
    "jitter": (EXPO, EXPOConfig(**SMALL, **FEW, edit=EditKind.JITTER)),
    "qc": (QC, QCConfig(**SMALL, num_samples=4)),
    "idql": (IDQL, IDQLConfig(**SMALL, num_samples=4)),
    "fql": (FQL, FQLConfig(**SMALL)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("base", [flow, diffusion, gaussian, unsquashed])
def test_state_round_trip_continues_bit_for_bit(name, base):
    algorithm, config = CASES[name]
    if algorithm is FQL and base is not flow:
        with pytest.raises(UsageError, match="policy=flow"):
            make(algorithm, base(), config)
        return
    a, b = (make(algorithm, base(normalize_obs=True), config) for _ in range(2))
    for i in range(3):
        batch = random_batch(i)
        a.observe(batch.obs), a.update(batch)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for i in range(3, 6):
        a.update(random_batch(i)), b.update(random_batch(i))
    for mine, theirs in zip(a.policy.parameters(), b.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(a.critic.online.net.flat, b.critic.online.net.flat)
    obs = {"policy": torch.randn(5, 3, generator=rng(9))}
    assert torch.equal(a.act(obs), b.act(obs))


@pytest.mark.parametrize("base", [flow, gaussian])
def test_expos_two_bases_see_observations_by_the_same_statistics(base):
    algorithm = make(EXPO, base(normalize_obs=True), CASES["expo"][1])
    algorithm.observe({"policy": 5.0 + torch.randn(64, 3, generator=rng(1))})
    for policy in (algorithm.policy, algorithm.policy.base, algorithm.imitation.policy):
        assert policy.normalizer is algorithm.policy.normalizer
    counts = [module.count for module in algorithm.policy.modules() if isinstance(module, RunningNormalizer)]
    assert [int(count) for count in counts] == [64]


def test_qcs_target_is_made_by_the_critics_that_were_drawn():
    learner = make(QC, flow(), QCConfig(**SMALL, num_samples=4, num_critics=4, target_members=1))
    for i in range(3):
        learner.update(random_batch(i))
    batch = random_batch(9)
    learner.rng.manual_seed(7)
    target = learner.target(batch)
    learner.rng.manual_seed(7)
    features = learner.policy_features(batch.next_obs)
    action = learner.policy.improve(features, learner.policy.draw_noise((len(features),), learner.rng)).action
    (members,) = learner.critic.draw_members(learner.rng)
    values = learner.critic.target(features, action)
    torch.testing.assert_close(target, batch.reward + batch.discount * values[members[0]])
    assert (target - batch.reward - batch.discount * values.mean(0)).abs().max() > 1e-3


def test_a_released_form_whose_updates_differ_is_not_compiled():
    for config in (QCConfig, FQLConfig, IDQLConfig):
        with pytest.raises(ValueError, match="compile: the updates of preset=released are not all alike"):
            config(compile=True, preset=Preset.RELEASED, offline_updates=1)


def test_fql_explores_by_the_flow_policy_until_there_is_something_to_distil():
    algorithm = make(FQL, flow(), CASES["fql"][1])
    obs = {"policy": torch.randn(500, 3, generator=rng(1))}
    algorithm.rng.manual_seed(2)
    expected = algorithm.policy.flow.act(obs, rng=rng(2))
    assert torch.equal(algorithm.act(obs), expected)
    algorithm.update(random_batch(0))
    algorithm.rng.manual_seed(3)
    assert torch.equal(algorithm.act(obs), algorithm.policy.act(obs, rng=rng(3)))


@pytest.mark.parametrize(
    ("preset", "chosen_by"),
    [(Preset.RELEASED, lambda q: q.amin(0)), (Preset.CORRECTED, lambda q: q.mean(0) - 0.5 * q.std(0))],
)
def test_what_acts_is_chosen_by_all_critics(preset, chosen_by):
    algorithm = make(EXPO, flow(), EXPOConfig(**SMALL, **FEW, preset=preset))
    for i in range(3):
        algorithm.update(random_batch(i))
    policy, features = algorithm.policy, torch.randn(6, 3, generator=rng(1))
    choice = policy.improve(features, policy.draw_noise((6,), rng(2)))
    values = torch.stack(
        [
            chosen_by(policy.critics(features, choice.candidates[:, k]))
            for k in range(choice.candidates.shape[1])
        ],
        1,
    )
    best = choice.candidates[torch.arange(6), values.argmax(1)]
    torch.testing.assert_close(choice.action, best, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["expo", "qc", "idql"])
def test_no_candidate_is_better_than_the_action_taken(name):
    algorithm = make(CASES[name][0], flow(), CASES[name][1])
    policy = algorithm.policy
    features = torch.randn(6, 3, generator=rng(1))
    choice = policy.improve(features, policy.draw_noise((6,), rng(2)))
    assert choice.candidates.shape == (6, policy.num_samples + policy.num_edits, 2)
    assert choice.candidates.abs().max() <= 1.0
    value = policy.score(features, choice.action.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(value, choice.values.amax(1), rtol=0, atol=1e-5)


def test_critics_that_are_not_asked_are_not_evaluated(monkeypatch):
    """Of ten critics a target asks two to choose and two others to value."""
    algorithm = make(EXPO, flow(), EXPOConfig(**SMALL, num_samples=3, num_edits=2, policy_delay=99))
    asked = []
    for name in ("run", "project"):
        original = getattr(algorithm.critic.target.net, name)

        def counted(x, members=None, original=original):
            asked.append(members.tolist())
            return original(x, members)

        monkeypatch.setattr(algorithm.critic.target.net, name, counted)
    algorithm.update(random_batch())
    assert [len(members) for members in asked] == [2, 2]
    assert not set(asked[0]) & set(asked[1])


def test_expos_target_is_valued_by_others_than_those_that_chose():
    config = EXPOConfig(**SMALL, num_critics=4, num_samples=3, num_edits=2)
    algorithm = make(EXPO, flow(), config)
    batch = random_batch()
    draws = rng()
    draws.set_state(algorithm.rng.get_state())
    found = algorithm.target(batch)

    order = torch.randperm(4, generator=draws)
    noise = torch.empty(16, algorithm.policy.noise_dim).normal_(generator=draws)
    features, targets = batch.next_obs["policy"], algorithm.critic.target
    samples = algorithm.imitation.policy.decode(features, noise[:, :6].view(16, 3, 2))
    edit, best, values = algorithm.policy.edit, [], []
    for j in range(2):
        mean, log_std = edit.net(torch.cat([features, samples[:, j]], -1)).chunk(2, -1)
        e = torch.tanh(mean + log_std.clamp(-20, 2).exp() * noise[:, 6 + 2 * j : 8 + 2 * j])
        best.append((samples[:, j] + 0.1 * e).clamp(-1, 1))
    candidates = [samples[:, k] for k in range(3)] + best
    values = torch.stack([targets(features, a)[order[:2]].amin(0) for a in candidates])
    action = torch.stack(candidates)[values.argmax(0), torch.arange(16)]
    expected = batch.reward + batch.discount * targets(features, action)[order[2:]].amin(0)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-5)


def test_an_edit_step_equals_autograd():
    config = EXPOConfig(**SMALL, num_critics=4, num_samples=3, num_edits=2, edit_scale=0.5, initial_alpha=0.3)
    algorithm = make(EXPO, flow(), config)
    edit, critics = algorithm.policy.edit, algorithm.critic.online
    features = random_batch().obs["policy"]
    draws = rng()
    draws.set_state(algorithm.rng.get_state())
    before = edit.net.flat.detach().clone()
    action = algorithm.imitation.policy.decode(features, torch.randn(16, 2, generator=rng(8)))
    mean, log_std = edit.net(torch.cat([features, action], -1)).chunk(2, -1)
    normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
    u = mean + normal.scale * torch.empty(16, 2).normal_(generator=draws)
    log_prob = (normal.log_prob(u) - torch.log(1 - torch.tanh(u) ** 2)).sum(-1)
    edited = (action + 0.5 * torch.tanh(u)).clamp(-1, 1)
    q = critics.net(torch.cat([features, edited], -1)).squeeze(-1)
    (gradient,) = torch.autograd.grad((0.3 * log_prob - q.mean(0)).mean(), edit.net.flat)
    with torch.no_grad():
        algorithm.edits.fit(features, action, algorithm.critic, features, algorithm.rng)
    # Adam's first step is the learning rate times the gradient's sign
    clear = gradient.abs() > 1e-6
    moved = (edit.net.flat.detach() - before)[clear]
    torch.testing.assert_close(moved, -1e-2 * gradient[clear].sign(), rtol=0, atol=2e-4)
    assert torch.equal(torch.sign(algorithm.edits.temperature.alpha - 0.3), torch.sign(log_prob.mean() - 1.0))


def test_expectile_by_hand():
    loss, slope = expectile_loss(torch.tensor([2.0, -1.0]), 0.9)
    torch.testing.assert_close(loss, torch.tensor([0.9 * 4.0, 0.1 * 1.0]))
    torch.testing.assert_close(slope, torch.tensor([2 * 0.9 * 2.0, -2 * 0.1 * 1.0]))


def bandit_batch(g: torch.Generator, n: int = 128) -> Transitions:
    """Actions near (-0.6, -0.6) and (0.6, 0.6), a few anywhere; the second mode pays, most at (0.7, 0.7)."""
    side = torch.randint(2, (n, 1), generator=g) * 2.0 - 1.0
    action = (0.6 * side + 0.1 * torch.randn(n, 2, generator=g)).clamp(-1, 1)
    # without them the critics know nothing between the modes, and what they make up there is chosen
    action[: n // 8] = torch.rand(n // 8, 2, generator=g) * 2 - 1
    reward = -1.0 - (action - 0.7).square().sum(-1)
    obs = {"policy": torch.zeros(n, 3)}
    return Transitions(obs, action, reward, torch.zeros(n), obs, torch.ones(n, 1))


WIDE = {"hidden": [64, 64], "learning_rate": 1e-3}
EDITS = {"policy_delay": 1, "num_critics": 4, "edit_scale": 0.2, "initial_alpha": 0.01, "base_ema": 0.02}
LEARNERS = {
    "expo": (EXPO, EXPOConfig(**WIDE, **EDITS)),
    "qc": (QC, QCConfig(**WIDE, num_samples=16)),
    "idql": (IDQL, IDQLConfig(**WIDE, num_samples=16)),
    "fql": (FQL, FQLConfig(**WIDE, distill_weight=0.3)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_the_mode_that_pays_is_taken(name):
    algorithm_class, config = LEARNERS[name]
    base = FlowPolicy(SPECS, FlowConfig(hidden=[64, 64], steps=5, normalize_obs=False), rng(0))
    algorithm, g = make(algorithm_class, base, config), rng(3)
    for _ in range(1000):
        algorithm.update(bandit_batch(g))
    action = algorithm.policy.act({"policy": torch.zeros(256, 3)}, deterministic=True, rng=rng(4))
    assert ((action - 0.65).abs().amax(1) < 0.35).float().mean() > 0.93
    if name == "expo":  # edits move beyond the best sample towards the optimum
        assert (action - 0.7).abs().mean() < 0.1


@pytest.mark.parametrize(("preset", "bounded"), [("corrected", True), ("released", False)])
def test_the_released_temperature_runs_away_and_the_corrected_one_does_not(preset, bounded):
    """Spec: for edit_scale < 0.303 the released entropy target cannot be reached."""
    config = EXPOConfig(
        hidden=[32, 32], learning_rate=3e-3, policy_delay=1, num_critics=4, num_samples=2, num_edits=2,
        edit_scale=0.05, preset=Preset(preset), initial_alpha=0.05,
    )  # fmt: skip
    base = FlowPolicy(SPECS, FlowConfig(hidden=[16], steps=2, normalize_obs=False), rng(0))
    algorithm, g = make(EXPO, base, config), rng(3)
    for _ in range(500):
        algorithm.update(bandit_batch(g, 32))
    grown = algorithm.edits.temperature.alpha / 0.05
    assert (grown < 1.0) if bounded else grown > math.exp(0.8 * 500 * 3e-3)


def test_the_released_form_acts_within_the_actuators_limits():
    """Its edited candidates are not cut, what it sends to the actuators has to be."""
    config = EXPOConfig(
        **SMALL, num_critics=4, num_samples=2, num_edits=2, edit_scale=2.0, preset=Preset.RELEASED
    )
    algorithm = make(EXPO, flow(), config)
    obs = {"policy": torch.randn(64, 3, generator=rng(1))}
    features = algorithm.policy_features(obs)
    noise = algorithm.policy.draw_noise((64,), rng(2))
    assert algorithm.policy.improve(features, noise).action.abs().max() > 1.0
    assert algorithm.policy(obs["policy"], noise).abs().max() == 1.0
    assert algorithm.act(obs).abs().max() == 1.0


def test_a_temperature_draws_candidates_by_the_softmax_of_their_values():
    algorithm = make(QC, flow(), QCConfig(**SMALL, num_samples=3, temperature=0.5))
    policy, obs = algorithm.policy, {"policy": torch.zeros(20_000, 3)}
    policy.score = lambda features, candidates: torch.tensor([0.0, 0.5, 1.0]).expand(len(features), 3)
    drawn = policy.act(obs, rng=rng(3))
    # the same noise again shows which candidate each was
    candidates = policy.propose(obs["policy"], policy.draw_noise((20_000,), rng(3)))
    shares = [(drawn == candidates[:, k]).all(1).float().mean() for k in range(3)]
    weights = torch.tensor([1.0, math.e, math.e**2])
    torch.testing.assert_close(torch.stack(shares), weights / weights.sum(), rtol=0, atol=0.015)
    assert torch.equal(policy.act(obs, deterministic=True, rng=rng(3)), candidates[:, 2])


def test_a_policy_that_cannot_propose_is_refused():
    policy = DeterministicPolicy(SPECS, DeterministicConfig(hidden=[8]), rng())
    with pytest.raises(UsageError, match="EXPO needs a policy"):
        EXPO.make_policy(SPECS, policy, EXPOConfig(), rng())
