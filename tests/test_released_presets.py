"""What `preset=released` does otherwise, in numbers; EXPO's and DSRL's are in the tests of those methods."""

from __future__ import annotations

import copy

import pytest
import torch
from test_generative_rl import SMALL, diffusion, flow, make, rng

from robotrl.algorithms.off_policy.config import Preset
from robotrl.algorithms.off_policy.fql import FQL, FQLConfig
from robotrl.algorithms.off_policy.idql import IDQL, IDQLConfig
from robotrl.algorithms.off_policy.qc import QC, QCConfig
from robotrl.data.replay import Transitions

PRESETS = list(Preset)


def windows(steps: list[int], seed: int = 0) -> Transitions:
    """Windows of three steps, of which so many happened."""
    g, n = rng(seed), len(steps)
    mask = (torch.arange(3) < torch.tensor(steps).unsqueeze(1)).float()
    action = (torch.rand(n, 3, 2, generator=g) * 2 - 1) * mask.unsqueeze(2)
    return Transitions(
        {"policy": torch.randn(n, 3, generator=g)},
        action.flatten(1),
        torch.randn(n, generator=g),
        torch.full((n,), 0.9),
        {"policy": torch.randn(n, 3, generator=g)},
        mask,
    )


def single(seed: int) -> Transitions:
    """Windows of one step."""
    batch = windows([1] * 16, seed)
    return Transitions(
        batch.obs, batch.action[:, :2], batch.reward, batch.discount, batch.next_obs, batch.mask[:, :1]
    )


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.value)
def test_released_idql_trains_its_policy_on_data_only_and_acts_by_an_average(preset):
    config = IDQLConfig(**SMALL, num_samples=4, preset=preset, offline_updates=3)
    algorithm = make(IDQL, diffusion(normalize_obs=True), config)
    learned = algorithm.imitation.policy.denoiser
    average = {name: values.clone() for name, values in learned.named_parameters()}
    for i in range(3):
        assert "loss/imitation" in algorithm.update(single(i))
        for name, values in learned.named_parameters():
            average[name] += 0.001 * (values.detach() - average[name])
    after_data = copy.deepcopy(learned.state_dict())
    metrics = algorithm.update(single(3))
    moved = any(not torch.equal(values, after_data[name]) for name, values in learned.state_dict().items())
    acting = algorithm.policy.base.denoiser
    assert "loss/value" in metrics
    statistics = algorithm.policy.normalizer.mean.clone()
    algorithm.observe({"policy": torch.full((8, 3), 5.0)})
    assert (algorithm.policy.normalizer.mean > statistics).all() == (preset is Preset.CORRECTED)
    if preset is Preset.CORRECTED:
        assert moved and acting is learned and "loss/imitation" in metrics
        return
    assert not moved and "loss/imitation" not in metrics
    for name, values in acting.named_parameters():
        torch.testing.assert_close(values, average[name], rtol=0, atol=1e-7)
        assert not torch.equal(values, after_data[name])


def test_released_idql_continues_bit_for_bit_and_starts_from_a_policy_with_both():
    config = IDQLConfig(**SMALL, num_samples=4, preset=Preset.RELEASED, offline_updates=5)
    a, b = (make(IDQL, diffusion(), config) for _ in range(2))
    for i in range(3):
        a.update(single(i))
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for i in range(3, 8):
        a.update(single(i)), b.update(single(i))
    obs = {"policy": torch.randn(5, 3, generator=rng(9))}
    assert torch.equal(a.act(obs), b.act(obs))
    trained = diffusion()
    for weights in trained.parameters():
        torch.nn.init.normal_(weights, generator=rng(4))
    b.start_from(trained)
    for part in (b.imitation.policy, b.policy.base):
        for mine, theirs in zip(part.parameters(), trained.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_released_idql_without_anything_to_imitate_is_refused():
    with pytest.raises(ValueError, match=r"never trains its policy on experience: give offline_updates"):
        IDQLConfig(preset=Preset.RELEASED)
    assert IDQLConfig(preset=Preset.RELEASED, init_from="run").offline_updates == 0


CHUNKED = {"qc": (QC, QCConfig, {"num_samples": 2}), "fql": (FQL, FQLConfig, {})}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.value)
@pytest.mark.parametrize("name", CHUNKED)
def test_released_critics_do_not_see_windows_in_which_the_episode_ends(name, preset):
    kind, config_class, options = CHUNKED[name]
    algorithm = make(kind, flow(horizon=3), config_class(**SMALL, **options, preset=preset))
    batch = windows([3, 1, 3, 2, 3, 3, 2, 3])
    other = copy.deepcopy(algorithm)
    loss = algorithm.update(batch)["loss/value"]
    batch.reward[[1, 3, 6]] += 100.0
    changed = other.update(batch)["loss/value"]
    critics = [learner.critic.online.net.flat for learner in (algorithm, other)]
    if preset is Preset.RELEASED:
        assert loss == changed and torch.equal(*critics)
    else:  # three of eight errors grew by 100: 3/8 of 100^2
        assert changed == pytest.approx(3750, rel=0.1) and loss < 20 and not torch.equal(*critics)
    for part in ("flow", "base"):  # the policy imitates what happened of all of them
        if hasattr(algorithm.policy, part):
            weights = [getattr(learner.policy, part).denoiser.net.flat for learner in (algorithm, other)]
            assert torch.equal(*weights)


@pytest.mark.parametrize("name", CHUNKED)
def test_a_batch_without_a_whole_window_leaves_released_critics_alone(name):
    kind, config_class, options = CHUNKED[name]
    algorithm = make(kind, flow(horizon=3), config_class(**SMALL, **options, preset=Preset.RELEASED))
    before = algorithm.critic.online.net.flat.clone()
    metrics = algorithm.update(windows([1, 2, 2]))
    assert "loss/value" not in metrics and "loss/imitation" in metrics
    assert torch.equal(algorithm.critic.online.net.flat, before)


def test_released_fql_climbs_the_critic_with_weight_one():
    """Corrected, the gradient is that of Q / mean |mean_i Q_i|."""
    gradients, sizes = [], []
    for preset in PRESETS:
        algorithm = make(FQL, flow(), FQLConfig(**SMALL, preset=preset, distill_weight=1e-9))
        algorithm.critic.online.net.flat.data.mul_(3.0)
        batch, draws = single(0), copy.deepcopy(algorithm)
        algorithm.update_policy(batch)
        gradients.append(torch.cat([p.grad.flatten() for p in algorithm.policy.one_step.parameters()]))
        # the same draws: those of the imitation, then the noise
        features = draws.policy_features(batch.obs)
        draws.imitation.fit(features, batch.action, batch.mask)
        action = draws.policy.one_step.decode(features, draws._noise(features))
        sizes.append(draws.critic.online(features, action).mean(0).abs().mean())
    assert sizes[0] == sizes[1] and not 0.7 < sizes[0] < 1.4
    corrected, released = gradients
    assert released.abs().max() > 1e-4
    torch.testing.assert_close(corrected * sizes[0], released, rtol=1e-3, atol=1e-7)
