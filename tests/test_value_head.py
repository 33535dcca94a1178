"""Value heads and critic ensembles against torch's autograd and hand-computed numbers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from robotrl.algorithms.off_policy.critic import Critic, make_critics
from robotrl.algorithms.off_policy.sac import SACConfig
from robotrl.networks.critic import Aggregate, CriticEnsemble
from robotrl.networks.mlp import Activation, Init, Norm
from robotrl.networks.value_head import HLGaussHead, ScalarHead


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_hl_gauss_puts_the_gaussians_mass_into_the_bins():
    head = HLGaussHead(-1.0, 1.0, num_bins=4, sigma_bins=0.75)  # bins 0.5 wide, sigma 0.375
    found = head.target_probabilities(torch.tensor([0.1], dtype=torch.float64))[0]

    def phi(x: float) -> float:
        return 0.5 * (1 + math.erf((x - 0.1) / 0.375 / math.sqrt(2)))

    edges = [-1.0, -0.5, 0.0, 0.5, 1.0]
    masses = [phi(b) - phi(a) for a, b in itertools.pairwise(edges)]
    expected = torch.tensor(masses, dtype=torch.float64) / sum(masses)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [-8.0, -3.3, 0.0, 7.9])
def test_hl_gauss_round_trip(value):
    """A value inside the range comes back from its own target distribution to a small part of a bin."""
    head = HLGaussHead(-10.0, 10.0, num_bins=101)
    logits = head.target_probabilities(torch.tensor([value], dtype=torch.float64)).clamp(min=1e-300).log()
    assert abs(head.value(logits).item() - value) < 0.01 * 20 / 101


def test_hl_gauss_cuts_targets_to_its_range():
    head = HLGaussHead(0.0, 1.0, num_bins=10)
    inside = head.target_probabilities(torch.tensor([1.0]))
    torch.testing.assert_close(head.target_probabilities(torch.tensor([50.0])), inside)
    assert inside.isfinite().all() and abs(float(inside.sum()) - 1) < 1e-5


@pytest.mark.parametrize("head", [ScalarHead(), HLGaussHead(-3.0, 3.0, 16)], ids=["scalar", "hl_gauss"])
@pytest.mark.parametrize("norm", list(Norm))
def test_written_out_gradients_are_autograds(head, norm):
    critics = CriticEnsemble(3, 2, [8, 8], Activation.GELU, norm, 4, head, Init.XAVIER, rng()).double()
    features = torch.randn(5, 3, generator=rng(1), dtype=torch.float64)
    action = torch.randn(5, 2, generator=rng(2), dtype=torch.float64, requires_grad=True)
    target = torch.randn(5, generator=rng(3), dtype=torch.float64)
    weights = torch.randn(4, 5, generator=rng(4), dtype=torch.float64)

    output = critics.net(torch.cat([features, action], -1))
    if isinstance(head, HLGaussHead):
        centres = torch.linspace(-3, 3, 17, dtype=torch.float64).unfold(0, 2, 1).mean(-1)
        values = (output.softmax(-1) * centres).sum(-1)
        wanted = head.target_probabilities(target)
        loss = -(wanted * output.log_softmax(-1)).sum(-1).mean(1).sum()
    else:
        values = output.squeeze(-1)
        loss = (values - target).square().mean(1).sum()
    (by_autograd,) = torch.autograd.grad((weights * values).sum(), action, retain_graph=True)
    (flat_by_autograd,) = torch.autograd.grad(loss, critics.net.flat)

    with torch.no_grad():
        found, pull = critics.with_gradient(features, action)
        torch.testing.assert_close(found, values, rtol=0, atol=1e-6)
        torch.testing.assert_close(pull(weights), by_autograd, rtol=0, atol=1e-6)
        flat = torch.empty_like(critics.net.flat)
        losses, _ = critics.loss_gradient(features, action, target, flat)
        torch.testing.assert_close(losses.mean(1).sum(), loss, rtol=0, atol=1e-6)
        torch.testing.assert_close(flat, flat_by_autograd, rtol=0, atol=1e-6)


def test_candidates_are_valued_as_single_actions_are():
    critics = CriticEnsemble(3, 2, [8], Activation.RELU, Norm.PRE, 5, ScalarHead(), Init.XAVIER, rng())
    features, actions = torch.randn(4, 3, generator=rng(1)), torch.randn(4, 6, 2, generator=rng(2))
    members = torch.tensor([3, 1])
    with torch.no_grad():
        together = critics.candidates(features, actions, members)
        assert together.shape == (2, 4, 6)
        for k in range(6):
            one_by_one = critics(features, actions[:, k])[members]
            torch.testing.assert_close(together[:, :, k], one_by_one, rtol=0, atol=1e-5)


def test_aggregates_by_hand():
    values = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert Aggregate.MIN.of(values, 0.5).tolist() == [1.0, 5.0]
    assert Aggregate.MEAN.of(values, 0.5).tolist() == [2.0, 5.0]
    assert Aggregate.MEAN_MINUS_STD.of(values, 0.5).tolist() == [1.5, 5.0]


def test_targets_outside_the_bins_are_counted_and_learned_as_the_nearest_end():
    config = SACConfig(hidden=[8], num_critics=2, value_range=[0.0, 1.0], value_bins=8, learning_rate=1e-2)
    features, action = torch.randn(4, 3), torch.zeros(4, 2)
    fitted = []
    for target in ([-0.5, 0.0, 1.0, 3.0], [0.0, 0.0, 1.0, 1.0]):
        rng = torch.Generator().manual_seed(0)
        critic = Critic(make_critics(3, 2, config, rng), config)
        metrics = critic.fit(features, action, torch.tensor(target))
        fitted.append((metrics["value/target_outside"].item(), critic.online.net.flat))
    assert [share for share, _ in fitted] == [0.5, 0.0]
    assert torch.equal(fitted[0][1], fitted[1][1])


@pytest.mark.parametrize(
    "given", [[0.0, math.inf], [0.0, 1e-300], [0.0, 1e300], [1.0, 1.0], [1e6, 1e6 + 1], [1.0]]
)
def test_ranges_that_float32_cannot_divide_are_refused(given):
    with pytest.raises(ValueError, match=r"value_range must be .* 8 bins apart"):
        SACConfig(value_range=given, value_bins=8)
    assert SACConfig(value_range=[-1.0, 0.0], value_bins=8)
