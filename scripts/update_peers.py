"""Straight updates in eager torch, each network a module and each critic a network of its own.

`sac` has CleanRL's structure (two critics as modules, one Adam for both, `torch.distributions`); with ten
critics and LayerNorm it is RLPD as its paper describes it. `expo` scores all candidates with all critics and
draws the members afterwards, `fql` sums its losses. Own words after the papers, to measure time only.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""obs (B, D), action (B, A), reward (B,), discount (B,), next_obs (B, D)."""
Update = Callable[[Batch], None]


def mlp(sizes: Sequence[int], activation: type[nn.Module], norm: bool = False) -> nn.Sequential:
    """Return linear layers with an activation between them, LayerNorm before it if asked for."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(fan_in, fan_out))
        if i < len(sizes) - 2:
            layers += [nn.LayerNorm(fan_out), activation()] if norm else [activation()]
    return nn.Sequential(*layers)


class Actor(nn.Module):
    """tanh-Gaussian."""

    def __init__(self, in_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = mlp([in_dim, *hidden, 2 * action_dim], nn.ReLU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return reparameterised actions and their log density."""
        mean, log_std = self.body(x).chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
        u = normal.rsample()
        action = torch.tanh(u)
        log_prob = normal.log_prob(u) - torch.log(1 - action.pow(2) + 1e-6)
        return action, log_prob.sum(-1)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Do one gradient step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def follow(targets: nn.ModuleList, critics: nn.ModuleList, tau: float = 0.005) -> None:
    """Move target networks, tensor by tensor."""
    for target, critic in zip(targets.parameters(), critics.parameters(), strict=True):
        target.data.copy_(tau * critic.data + (1 - tau) * target.data)


def make_critics(
    obs_dim: int, action_dim: int, hidden: Sequence[int], count: int, norm: bool, activation: type[nn.Module]
) -> tuple[nn.ModuleList, nn.ModuleList, torch.optim.Adam]:
    """Return critics, their targets and one Adam for all."""
    critics = nn.ModuleList(mlp([obs_dim + action_dim, *hidden, 1], activation, norm) for _ in range(count))
    return critics, copy.deepcopy(critics), torch.optim.Adam(critics.parameters(), lr=3e-4)


def values(critics: Sequence[nn.Module] | nn.ModuleList, obs: Tensor, action: Tensor) -> Tensor:
    """Ask each critic, (E, B)."""
    x = torch.cat([obs, action], -1)
    return torch.stack([critic(x).squeeze(-1) for critic in critics])


def sac(
    obs_dim: int,
    action_dim: int,
    hidden: Sequence[int],
    num_critics: int = 2,
    norm: bool = False,
    policy_delay: int = 1,
) -> Update:
    """SAC with automatic temperature; ten critics with LayerNorm and a drawn pair for RLPD."""
    actor = Actor(obs_dim, action_dim, hidden)
    critics, targets, critic_adam = make_critics(obs_dim, action_dim, hidden, num_critics, norm, nn.ReLU)
    actor_adam = torch.optim.Adam(actor.parameters(), lr=3e-4)
    log_alpha = torch.zeros(1, requires_grad=True)
    alpha_adam = torch.optim.Adam([log_alpha], lr=3e-4)
    calls = 0

    def update(batch: Batch) -> None:
        nonlocal calls
        calls += 1
        obs, action, reward, discount, next_obs = batch
        alpha = log_alpha.exp().item()
        with torch.no_grad():
            next_action, log_prob = actor(next_obs)
            asked = targets
            if num_critics > 2:
                asked = [targets[i] for i in torch.randperm(num_critics)[:2].tolist()]
            target = reward + discount * (values(asked, next_obs, next_action).amin(0) - alpha * log_prob)
        critic_loss = sum(F.mse_loss(q, target) for q in values(critics, obs, action))
        step(critic_adam, critic_loss)
        if calls % policy_delay == 0:
            drawn, log_prob = actor(obs)
            q = values(critics, obs, drawn)
            climbed = q.mean(0) if num_critics > 2 else q.amin(0)
            step(actor_adam, (alpha * log_prob - climbed).mean())
            step(alpha_adam, (-log_alpha.exp() * (log_prob.detach() - action_dim)).mean())
        follow(targets, critics)

    return update


class Denoiser(nn.Module):
    """LN-ResNet of three blocks on [x, s, time], learned Fourier features of the time."""

    def __init__(self, obs_dim: int, action_dim: int, width: int = 256) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(0.2 * torch.randn(64))
        self.time = mlp([128, 256, 256], nn.SiLU)
        self.first = nn.Linear(obs_dim + action_dim + 256, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
            )
            for _ in range(3)
        )
        self.last = nn.Linear(width, action_dim)

    def forward(self, obs: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Predict the noise in x."""
        phase = 2 * torch.pi * t[:, None] * self.frequencies
        h = self.first(torch.cat([x, obs, self.time(torch.cat([phase.cos(), phase.sin()], -1))], -1))
        for block in self.blocks:
            h = h + block(h)
        return self.last(F.silu(h))


def expo(
    obs_dim: int, action_dim: int, hidden: Sequence[int], policy_delay: int, samples: int = 8, steps: int = 10
) -> Update:
    """EXPO as one would write it down: all critics score all candidates, then two are drawn."""
    scale = 0.1
    base, edit = Denoiser(obs_dim, action_dim), Actor(obs_dim + action_dim, action_dim, hidden)
    average = copy.deepcopy(base)
    critics, targets, critic_adam = make_critics(obs_dim, action_dim, hidden, 10, True, nn.ReLU)
    base_adam = torch.optim.Adam(base.parameters(), lr=3e-4)
    edit_adam = torch.optim.Adam(edit.parameters(), lr=3e-4)
    log_alpha = torch.zeros(1, requires_grad=True)
    alpha_adam = torch.optim.Adam([log_alpha], lr=3e-4)
    i = torch.arange(1, steps + 1)
    alphas = torch.exp(-0.1 / steps - 0.5 * 9.9 * (2 * i - 1) / steps**2)
    left = alphas.cumprod(0)
    calls = 0

    def sample(obs: Tensor) -> Tensor:
        x = torch.randn(len(obs), action_dim)
        for t in reversed(range(steps)):
            noise = base(obs, x, torch.full((len(obs),), float(t)))
            x = (x - (1 - alphas[t]) / (1 - left[t]).sqrt() * noise) / alphas[t].sqrt()
            if t > 0:
                x = x + (1 - alphas[t]).sqrt() * torch.randn_like(x)
            x = x.clamp(-1, 1)
        return x

    def candidates(obs: Tensor) -> tuple[Tensor, Tensor]:
        repeated = obs.repeat_interleave(samples, 0)
        drawn = sample(repeated)
        edited = (drawn + scale * edit(torch.cat([repeated, drawn], -1))[0]).clamp(-1, 1)
        actions = torch.cat([drawn.view(-1, samples, action_dim), edited.view(-1, samples, action_dim)], 1)
        return obs.repeat_interleave(2 * samples, 0), actions.flatten(0, 1)

    def update(batch: Batch) -> None:
        nonlocal calls
        calls += 1
        obs, action, reward, discount, next_obs = batch
        with torch.no_grad():
            repeated, proposed = candidates(next_obs)
            scores = values(targets, repeated, proposed)
            order = torch.randperm(10)
            best = scores[order[:2]].amin(0).view(-1, 2 * samples).argmax(1)
            chosen = proposed.view(-1, 2 * samples, action_dim)[torch.arange(len(best)), best]
            target = reward + discount * values(targets, next_obs, chosen)[order[2:4]].amin(0)
        step(critic_adam, sum(F.mse_loss(q, target) for q in values(critics, obs, action)))
        follow(targets, critics)
        if calls % policy_delay:
            return
        t = torch.randint(steps, (len(obs),))
        noise = torch.randn_like(action)
        x = left[t, None].sqrt() * action + (1 - left[t, None]).sqrt() * noise
        step(base_adam, (base(obs, x, t.float()) - noise).square().sum(-1).mean())
        follow(nn.ModuleList([average]), nn.ModuleList([base]), 0.001)
        with torch.no_grad():
            drawn = sample(obs)
        e, log_prob = edit(torch.cat([obs, drawn], -1))
        climbed = values(critics, obs, (drawn + scale * e).clamp(-1, 1)).mean(0)
        step(edit_adam, (log_alpha.exp().item() * log_prob - climbed).mean())
        step(alpha_adam, (-log_alpha.exp() * (log_prob.detach() - 0.5 * action_dim)).mean())

    return update


def fql(obs_dim: int, action_dim: int, hidden: Sequence[int], steps: int = 10) -> Update:
    """FQL with one Adam for flow and one-step policy."""
    flow = mlp([obs_dim + action_dim + 1, *hidden, action_dim], nn.GELU)
    one_step = mlp([obs_dim + action_dim, *hidden, action_dim], nn.GELU)
    critics, targets, critic_adam = make_critics(obs_dim, action_dim, hidden, 2, True, nn.GELU)
    adam = torch.optim.Adam([*flow.parameters(), *one_step.parameters()], lr=3e-4)

    def update(batch: Batch) -> None:
        obs, action, reward, discount, next_obs = batch
        with torch.no_grad():
            drawn = one_step(torch.cat([next_obs, torch.randn_like(action)], -1)).clamp(-1, 1)
            target = reward + discount * values(targets, next_obs, drawn).mean(0)
        step(critic_adam, sum(F.mse_loss(q, target) for q in values(critics, obs, action)))
        noise, t = torch.randn_like(action), torch.rand(len(obs), 1)
        velocity = flow(torch.cat([(1 - t) * noise + t * action, obs, t], -1))
        imitation = F.mse_loss(velocity, action - noise)
        z = torch.randn_like(action)
        with torch.no_grad():
            x = z
            for k in range(steps):
                x = x + flow(torch.cat([x, obs, torch.full_like(t, k / steps)], -1)) / steps
        drawn = one_step(torch.cat([obs, z], -1))
        q = values(critics, obs, drawn.clamp(-1, 1)).mean(0)
        policy = F.mse_loss(drawn, x.clamp(-1, 1)) - q.mean() / q.abs().mean().detach()
        step(adam, imitation + policy)
        follow(targets, critics)

    return update
