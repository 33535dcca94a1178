"""The written-out backward passes against plain autograd in float64, and the normaliser against numpy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnxruntime
import pytest
import torch

from robotrl.networks.flat_adam import FlatAdam
from robotrl.networks.mlp import MLP, Activation, Init, Norm
from robotrl.networks.normalizer import RunningNormalizer
from robotrl.policies.distributions import DiagonalGaussian, ScaledBeta, SquashedDraw, SquashedGaussian


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain_mlp(net: MLP, flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The same network as a chain of ordinary torch operations."""
    functional = torch.nn.functional
    activation = {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "elu": functional.elu,
        "gelu": lambda z: 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
        "silu": lambda z: z / (1 + torch.exp(-z)),
        "mish": lambda z: z * torch.tanh(torch.log1p(torch.exp(z))),
    }[net.activation.value]

    def norm(z: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        var, mean = torch.var_mean(z, dim=-1, correction=0, keepdim=True)
        return (z - mean) / torch.sqrt(var + 1e-5) * gain + shift

    params = iter(net.split(flat))
    for _ in net.sizes[1:-1]:
        x = x @ next(params) + next(params)
        if net.norm is Norm.PRE:
            x = activation(norm(x, next(params), next(params)))
        elif net.norm is Norm.POST:
            x = norm(activation(x), next(params), next(params))
        else:
            x = activation(x)
    return x @ next(params) + next(params)


def jittered(*args, **kwargs) -> MLP:
    """A float64 MLP whose every parameter, gains and shifts included, is drawn."""
    net = MLP(*args, **kwargs).double()
    with torch.no_grad():
        net.flat += 0.3 * torch.randn(net.flat.shape, dtype=torch.float64, generator=rng(7))
    return net


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("members", [None, 1, 3])
@pytest.mark.parametrize("hidden", [[], [5], [7, 6, 4]])
@pytest.mark.parametrize("separate", [False, True])
def test_mlp_forward_and_gradients_equal_autograd(activation, norm, members, hidden, separate):
    net = jittered(3, hidden, 2, activation, Init.UNIFORM, rng(), num_members=members, norm=norm)
    lead = (members,) if separate and members else ()
    x = torch.randn(*lead, 11, 3, dtype=torch.float64, generator=rng(1), requires_grad=True)
    weights = torch.randn(net(x).shape, dtype=torch.float64, generator=rng(2))

    ours = torch.autograd.grad((net(x) * weights).sum(), [x, net.flat])
    reference = torch.autograd.grad((plain_mlp(net, net.flat, x) * weights).sum(), [x, net.flat])

    with torch.no_grad():
        torch.testing.assert_close(net(x), plain_mlp(net, net.flat, x), rtol=0, atol=1e-12)
    for got, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("members", [None, 4])
@pytest.mark.parametrize("hidden", [[], [6, 5]])
def test_projection_and_members_equal_the_whole(norm, members, hidden):
    net = jittered(7, hidden, 2, Activation.MISH, Init.XAVIER, rng(), num_members=members, norm=norm)
    chosen = torch.tensor([2, 0]) if members else None
    context = torch.randn(5, 3, dtype=torch.float64, generator=rng(1))
    time = torch.randn(5, 2, dtype=torch.float64, generator=rng(2))
    x = torch.randn(5, 4, 2, dtype=torch.float64, generator=rng(3))
    projection = net.project(context, chosen) + net.project(time, chosen, start=3)
    got = net.finish(projection, x, chosen)
    rows = torch.cat([torch.cat([context, time], -1).unsqueeze(1).expand(5, 4, 5), x], -1).flatten(0, 1)
    expected = plain_mlp(net, net.flat, rows).unflatten(-2, (5, 4))
    torch.testing.assert_close(got, expected[chosen] if members else expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(net.run(rows, chosen)[-1].unflatten(-2, (5, 4)), got, rtol=0, atol=1e-12)


def test_xavier_init_has_glorots_range():
    net = MLP(300, [], 200, Activation.RELU, Init.XAVIER, rng())
    weight, bias = net.split(net.flat)
    assert not bias.any()
    bound = math.sqrt(6 / 500)
    assert 0.99 * bound < weight.abs().max() <= bound
    assert abs(weight.std().item() - math.sqrt(2 / 500)) < 1e-3


def test_mlp_refuses_second_derivatives():
    net = MLP(3, [4], 1, Activation.SILU, Init.UNIFORM, rng())
    x = torch.randn(5, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    "activation, norm, members",
    [
        (Activation.GELU, Norm.PRE, 3),
        (Activation.MISH, Norm.POST, None),
        (Activation.SILU, Norm.NONE, 2),
    ],
)
def test_mlp_exports(activation, norm, members, tmp_path):
    net = MLP(3, [8, 8], 2, activation, Init.UNIFORM, rng(), num_members=members, norm=norm).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    x = torch.randn(5, 3, generator=rng(1))
    with torch.no_grad():
        program = torch.onnx.export(net, (torch.zeros(2, 3),), dynamo=True, dynamic_shapes=shapes)
        expected = net(x).numpy()
    program.save(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_mlp_skips_gradients_nobody_asked_for():
    net = MLP(3, [4], 2, Activation.RELU, Init.UNIFORM, rng(), num_members=2)
    net.requires_grad_(False)
    x = torch.randn(5, 3, requires_grad=True)
    net(x).sum().backward()
    assert net.flat.grad is None
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_ensemble_members_are_independent_and_orthogonal_init_is_orthogonal():
    net = MLP(8, [8], 1, Activation.TANH, Init.ORTHOGONAL, rng(), num_members=2, last_gain=0.01)
    first, bias, last, _ = net.split(net.flat)
    assert not torch.equal(first[0], first[1])
    torch.testing.assert_close(first[0] @ first[0].T, 2.0 * torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(last[1].norm(), torch.tensor(0.01), atol=1e-7, rtol=0)
    assert not bias.any()


def test_normalizer_merges_batches_like_one_big_batch():
    data = np.random.default_rng(0).normal(3.0, 2.0, size=(1000, 4)) * [1, 10, 0.1, 1e3]
    normalizer = RunningNormalizer(4, clip=5.0)
    for part in np.split(data, [1, 10, 400]):
        normalizer.update(torch.from_numpy(part))
    np.testing.assert_allclose(normalizer.mean.numpy(), data.mean(0), rtol=1e-12)
    np.testing.assert_allclose(normalizer.var.numpy(), data.var(0), rtol=1e-10)
    expected = np.clip((data - data.mean(0)) / np.sqrt(data.var(0) + 1e-8), -5, 5)
    got = normalizer(torch.from_numpy(data).float()).numpy()
    np.testing.assert_allclose(got, expected, atol=2e-3)
    assert np.abs(got).max() <= 5.0


def test_normalizer_is_the_identity_before_data():
    x = torch.tensor([[0.5, -3.0]])
    assert torch.equal(RunningNormalizer(2)(x), x)


def test_diagonal_gaussian_against_torch():
    mean, log_std = torch.randn(6, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    action = torch.randn(6, 3, dtype=torch.float64)
    reference = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
    ours = DiagonalGaussian(mean, log_std)
    torch.testing.assert_close(ours.log_prob(action), reference.log_prob(action), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.entropy(), reference.entropy(), rtol=0, atol=1e-12)


def test_squashed_draw_and_its_gradients_equal_autograd():
    mean = torch.randn(9, 4, dtype=torch.float64, generator=rng(4)).requires_grad_()
    log_std = (0.5 * torch.randn(9, 4, dtype=torch.float64, generator=rng(6))).requires_grad_()
    draw = SquashedDraw.draw(mean.detach(), log_std.detach(), rng(5))

    noise = torch.empty(9, 4, dtype=torch.float64).normal_(generator=rng(5))
    u = mean + log_std.exp() * noise
    normal = torch.distributions.Normal(mean, log_std.exp())
    action = torch.tanh(u)
    log_prob = (normal.log_prob(u) - torch.log(1 - action**2)).sum(-1)
    torch.testing.assert_close(draw.action, action, rtol=0, atol=1e-12)
    torch.testing.assert_close(draw.log_prob, log_prob, rtol=0, atol=1e-9)
    by_action = SquashedGaussian(mean, log_std).log_prob(action)
    torch.testing.assert_close(by_action, log_prob, rtol=0, atol=1e-6)

    grad_action = torch.randn(9, 4, dtype=torch.float64)
    expected = torch.autograd.grad((action * grad_action).sum() + 0.7 * log_prob.sum(), [mean, log_std])
    for got, reference in zip(
        draw.backprop(grad_action, torch.tensor(0.7, dtype=torch.float64)), expected, strict=True
    ):
        torch.testing.assert_close(got, reference, rtol=0, atol=1e-9)


def test_squashed_draw_is_finite_far_out():
    draw = SquashedDraw.draw(torch.full((1, 2), 40.0), torch.zeros(1, 2), rng())
    assert torch.isfinite(draw.log_prob).all()


def test_flat_adam_equals_torch():
    ours = torch.randn(20, dtype=torch.float64)
    theirs = torch.nn.Parameter(ours.clone())
    flat, reference = FlatAdam(ours, 1e-2), torch.optim.Adam([theirs], lr=1e-2)
    for i in range(50):
        grad = torch.randn(20, dtype=torch.float64, generator=rng(i)) * 10.0 ** (i % 5 - 3)
        flat.step(grad)
        theirs.grad = grad
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-12)


def test_scaled_beta_density_integrates_to_one_and_matches_torch():
    alpha, beta = torch.tensor([[2.5]], dtype=torch.float64), torch.tensor([[1.5]], dtype=torch.float64)
    ours = ScaledBeta(alpha, beta)
    grid = torch.linspace(-1 + 1e-6, 1 - 1e-6, 20001, dtype=torch.float64).unsqueeze(1)
    density = ours.log_prob(grid).exp()
    assert abs(torch.trapezoid(density, grid[:, 0]).item() - 1.0) < 1e-4
    assert abs(torch.trapezoid(-density * density.log(), grid[:, 0]).item() - ours.entropy().item()) < 1e-3
    reference = torch.distributions.Beta(alpha, beta)
    torch.testing.assert_close(ours.entropy(), (reference.entropy() + math.log(2)).squeeze(-1))
    draws = ScaledBeta(alpha.expand(50_000, 1), beta.expand(50_000, 1)).sample(rng())
    assert abs(draws.mean().item() - ours.mode().item()) < 0.01


@pytest.mark.parametrize("a, b", itertools.pairwise([0, 0, 1]))
def test_samples_come_from_the_generator(a, b):
    distribution = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(2))
    assert torch.equal(distribution.sample(rng(a)), distribution.sample(rng(b))) == (a == b)
