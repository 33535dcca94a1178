"""The streaming learners once more, one stream in plain torch with autograd: slow, and easy to believe.

Tests hold every compiled gradient and update to it. A network is a list of matrices (out, in + 1) with
the biases in the last column, in the order and layout of `network.layer_matrices`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from robotrl.algorithms.streaming.actor_critic import Actor
from robotrl.algorithms.streaming.config import Preset, StreamACConfig, StreamConfig, StreamQConfig
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.rules.codes import Rule
from robotrl.algorithms.streaming.units import Unit

Layers = list[Tensor]


def hidden_unit(unit: Unit, z: Tensor) -> Tensor:
    """Evaluate a hidden layer's units."""
    if unit is Unit.LAYER_NORM:
        return F.leaky_relu(F.layer_norm(z, z.shape, eps=1e-5), 0.01)
    if unit is Unit.ELU:
        return F.elu(z)
    return torch.tanh(z) if unit is Unit.TANH else torch.relu(z)


def network(layers: Layers, x: Tensor, unit: Unit = Unit.LAYER_NORM) -> Tensor:
    """Evaluate an MLP for x (D,); a last matrix without inputs holds constant outputs."""
    constants = [layers[-1][:, -1]] if layers[-1].shape[1] == 1 else []
    *hidden, last = layers[: len(layers) - len(constants)]
    for w in hidden:
        x = hidden_unit(unit, w[:, :-1] @ x + w[:, -1])
    return torch.cat([last[:, :-1] @ x + last[:, -1], *constants])


def dot(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> float:
    """Return the scalar product over all tensors."""
    return sum(float((x * y).sum()) for x, y in zip(xs, ys, strict=True))


class ReferenceRule:
    """A step-size rule for one network; formulas as in `rules`.

    Args:
        rule: which one.
        rate: kappa, eta or learning rate, whichever it has.
        layers: parameters, changed in place.
        is_policy: whether the network is a policy.
        bounded: cut a policy's relative delta at 20.
    """

    def __init__(
        self, rule: Rule, rate: float, layers: Layers, is_policy: bool, bounded: bool = False
    ) -> None:
        self.rule, self.rate, self.layers = rule, rate, layers
        self.is_policy, self.bounded = is_policy, bounded
        self.trace = [torch.zeros_like(w) for w in layers]
        self.square = [torch.zeros_like(w) for w in layers]
        self.mean = [torch.zeros_like(w) for w in layers]
        self.t = 0
        self.mean_n, self.mean_square_delta, self.mean_abs_delta = 0.0, 1.0, 0.0

    def step(self, g: Layers, delta: float, c: float, resets: bool, moved: Layers | None = None) -> None:
        """Move the parameters.

        Args:
            g: gradient of what is to increase where delta is positive.
            delta: TD error.
            c: gamma lambda.
            resets: clear the traces afterwards.
            moved: of a logit, where that is what the normaliser looks at instead of g.
        """
        self.t += 1
        past = [c * z for z in self.trace]
        self.trace = [z + gi for z, gi in zip(past, g, strict=True)]
        if self.rule is Rule.INTENTIONAL:
            factor, u = self._intentional(g, delta, c, past, moved)
        elif self.rule is Rule.ADAM:
            factor, u = self._adam(delta)
        elif self.rule is Rule.SGD:
            factor, u = self.rate * delta, self.trace
        else:
            u = self._adaptive(delta) if self.rule is Rule.ADAPTIVE_OBGD else self.trace
            norm = sum(float(ui.abs().sum()) for ui in u)
            factor = min(1.0, 1.0 / (self.rate * max(abs(delta), 1.0) * norm)) * delta if norm else 0.0
        for w, ui in zip(self.layers, u, strict=True):
            w += factor * ui
        if resets:
            self.trace = [torch.zeros_like(z) for z in self.trace]

    def _update_squares(self, g: Layers) -> Layers:
        self.square = [0.999 * v + 0.001 * gi**2 for v, gi in zip(self.square, g, strict=True)]
        return [v / (1 - 0.999**self.t) for v in self.square]

    def _adaptive(self, delta: float) -> Layers:
        squares = self._update_squares([delta * z for z in self.trace])
        return [z / torch.sqrt(v + 1e-8) for z, v in zip(self.trace, squares, strict=True)]

    def _adam(self, delta: float) -> tuple[float, Layers]:
        push = [delta * z for z in self.trace]
        squares = self._update_squares(push)
        self.mean = [0.9 * m + 0.1 * p for m, p in zip(self.mean, push, strict=True)]
        means = [m / (1 - 0.9**self.t) for m in self.mean]
        return self.rate, [m / (v.sqrt() + 1e-8) for m, v in zip(means, squares, strict=True)]

    def _intentional(
        self, g: Layers, delta: float, c: float, past: Layers, moved: Layers | None
    ) -> tuple[float, Layers]:
        rho = [1 / (v.sqrt() + 1e-8) for v in self._update_squares(g)]
        u = [r * z for r, z in zip(rho, self.trace, strict=True)]
        n, q = dot(g, [r * gi for r, gi in zip(rho, g, strict=True)]), dot(self.trace, u)
        if moved is not None:
            n = dot(moved, [r * gi for r, gi in zip(rho, moved, strict=True)])
            q = dot(past, [r * z for r, z in zip(rho, past, strict=True)]) + n
        self.mean_n += (1 - c) * (n - self.mean_n)
        mean_n = self.mean_n / (1 - c**self.t)

        self.mean_square_delta = 0.9998 * self.mean_square_delta + 0.0002 * delta**2
        cap = 20 * math.sqrt(self.mean_square_delta / (1 - 0.9998**self.t))
        delta = max(-cap, min(delta, cap))
        if self.is_policy:
            self.mean_abs_delta = 0.9998 * self.mean_abs_delta + 0.0002 * abs(delta)
            delta /= max(self.mean_abs_delta / (1 - 0.9998**self.t), 1e-12)
        if self.bounded:
            delta = max(-20.0, min(delta, 20.0))
        return self.rate / max(math.sqrt(mean_n * q), 1e-8) * delta, u


class Statistics:
    """Running mean and variance (Welford 1962)."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean, self.p = np.zeros(dim), np.zeros(dim)

    def update(self, x: npt.NDArray[np.float64]) -> None:
        """Take in a sample (D,)."""
        self.count += 1
        d = x - self.mean
        self.mean = self.mean + d / self.count
        self.p = self.p + d * (x - self.mean)

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """Standard deviation (D,), 1 for a single sample."""
        var = self.p / (self.count - 1) if self.count > 1 else np.ones_like(self.p)
        return np.sqrt(var + 1e-8)


class ReferenceStream:
    """Observations, rewards and ends of one stream, as every learner sees them."""

    def __init__(self, config: StreamConfig, obs_dim: int, obs_clip: float = math.inf) -> None:
        self.config, self.obs_clip = config, obs_clip
        self.obs_statistics, self.reward_statistics = Statistics(obs_dim), Statistics(1)
        self.reward_sum = 0.0
        self.t = 0
        self.released = config.preset is Preset.REFERENCE
        self.state = torch.empty(0)

    def observe(self, obs: npt.NDArray[np.float64]) -> Tensor:
        """Return the input of the networks for a raw observation (D,)."""
        if self.config.normalize_obs:
            self.obs_statistics.update(obs)
            obs = (obs - self.obs_statistics.mean) / self.obs_statistics.std
            obs = obs.clip(-self.obs_clip, self.obs_clip)
        if self.config.sees_time:
            obs = np.append(obs, max(self.t - 1, 0) / self.config.episode_steps - 0.5)
        return torch.from_numpy(obs.astype(np.float64))

    def start(self, obs: npt.NDArray[np.float64]) -> None:
        """Begin an episode."""
        self.t = 0
        self.state = self.observe(obs)

    def take(
        self, reward: float, terminated: bool, truncated: bool, successor: npt.NDArray[np.float64]
    ) -> tuple[Tensor, float, float, bool]:
        """Return the successor, the scaled reward, gamma or 0 where the return ends, and `resets`."""
        unnoticed = self.released and self.config.rule is Rule.INTENTIONAL
        resets = terminated or (truncated and not unnoticed)
        cuts = terminated or (truncated and self.released and not unnoticed)
        self.t += 1
        next_state = self.observe(successor)
        if self.config.scale_reward:
            if resets and self.released:
                self.reward_sum = 0.0
            self.reward_sum = self.config.gamma * self.reward_sum + reward
            self.reward_statistics.update(np.array([self.reward_sum]))
            if resets and not self.released:
                self.reward_sum = 0.0
            reward = reward / float(self.reward_statistics.std[0])
        return next_state, reward, 0.0 if cuts else self.config.gamma, resets


def gradient(objective: Tensor, layers: Layers) -> Layers:
    """Return d objective / d layers."""
    return list(torch.autograd.grad(objective, layers))


class ReferenceAC(ReferenceStream):
    """Stream AC(lambda) of one stream.

    Args:
        config: hyperparameters.
        obs_dim: D.
        kind: what the actor is made of.
        actor: initial parameters.
        critic: initial parameters.
    """

    config: StreamACConfig

    def __init__(
        self, config: StreamACConfig, obs_dim: int, kind: Actor, actor: Layers, critic: Layers
    ) -> None:
        super().__init__(config, obs_dim, kind.obs_clip)
        self.kind, self.actor, self.critic = kind, actor, critic
        self.steps = 0
        rates = [getattr(config, f"{head}_{config.rule.rate}") for head in ("actor", "critic")]
        intentional = config.rule is Rule.INTENTIONAL and config.preset is Preset.DEFAULT
        self.moves_logits = intentional and kind.head is Head.CATEGORICAL
        self.actor_rule = ReferenceRule(config.rule, rates[0], actor, True, bounded=self.moves_logits)
        self.critic_rule = ReferenceRule(config.rule, rates[1], critic, is_policy=False)

    def policy(self, layers: Layers) -> torch.distributions.Distribution:
        """pi(. | s) at the current state."""
        y = network(layers, self.state, self.kind.unit)
        if self.kind.head is Head.CATEGORICAL:
            return torch.distributions.Categorical(logits=y)
        mu, pre = y.chunk(2)
        floor = 0.0 if self.kind.head is Head.SQUASHED else self.config.std_floor or 0.0
        if self.kind.head in (Head.SOFTPLUS, Head.SQUASHED_SOFTPLUS):
            return torch.distributions.Normal(mu, F.softplus(pre) + floor)
        return torch.distributions.Normal(mu, pre.clamp(*self.kind.log_std_bounds).exp() + floor)

    def update(
        self,
        action: Any,
        reward: float,
        terminated: bool,
        truncated: bool,
        next_obs: npt.NDArray[np.float64],
        final_obs: npt.NDArray[np.float64],
        logit: int | None = None,
    ) -> None:
        """Learn from one transition; `logit` is the one drawn for the normaliser, where it moves logits."""
        ended = terminated or truncated
        self.steps += 1
        next_state, reward, gamma, resets = self.take(
            reward, terminated, truncated, final_obs if ended else next_obs
        )
        critic = [w.clone().requires_grad_() for w in self.critic]
        actor = [w.clone().requires_grad_() for w in self.actor]
        unit = self.config.critic_unit
        value = network(critic, self.state, unit)[0]
        delta = reward + gamma * float(network(self.critic, next_state, unit)[0]) - value.item()
        policy = self.policy(actor)
        sign = math.copysign(1.0, delta) if delta else 0.0
        objective = policy.log_prob(torch.as_tensor(action)).sum()
        objective = objective + self.config.entropy_coef * sign * policy.entropy().sum()
        g_actor = gradient(objective, actor)
        moved = None
        if logit is not None:
            y = network(actor, self.state)
            moved = gradient(y[logit] - y.mean(), actor)
        c = self.config.gamma * self.config.trace_lambda
        self.critic_rule.step(gradient(value, critic), delta, c, resets)
        if self.steps > self.config.actor_rest_steps:
            self.actor_rule.step(g_actor, delta, c, resets, moved)
        if ended:
            self.start(next_obs)
        else:
            self.state = next_state


class ReferenceTD(ReferenceStream):
    """Stream TD(lambda) of one stream.

    Args:
        config: hyperparameters.
        obs_dim: D.
        critic: initial parameters.
    """

    def __init__(self, config: StreamConfig, obs_dim: int, critic: Layers) -> None:
        super().__init__(config, obs_dim)
        self.critic = critic
        rate = getattr(config, f"critic_{config.rule.rate}")
        self.critic_rule = ReferenceRule(config.rule, rate, critic, is_policy=False)

    def update(
        self,
        reward: float,
        terminated: bool,
        truncated: bool,
        next_obs: npt.NDArray[np.float64],
        final_obs: npt.NDArray[np.float64],
        action: int = 0,
        next_action: int | None = 0,
        greedy: bool = True,
    ) -> None:
        """Learn from one transition.

        Args:
            reward: raw.
            terminated: whether it led to an end state.
            truncated: whether the time limit ended the episode.
            next_obs: (D,) what comes next.
            final_obs: (D,) true successor where the episode ended.
            action: index of the output that is learned.
            next_action: index of the output that it is learned from, None for the largest.
            greedy: False clears the traces afterwards.
        """
        ended = terminated or truncated
        next_state, reward, gamma, resets = self.take(
            reward, terminated, truncated, final_obs if ended else next_obs
        )
        critic = [w.clone().requires_grad_() for w in self.critic]
        value = network(critic, self.state)[action]
        next_q = network(self.critic, next_state)
        next_value = next_q.max() if next_action is None else next_q[next_action]
        delta = reward + gamma * next_value.item() - value.item()
        c = self.config.gamma * self.config.trace_lambda
        self.critic_rule.step(gradient(value, critic), delta, c, resets or not greedy)
        if ended:
            self.start(next_obs)
        else:
            self.state = next_state


def epsilon(config: StreamQConfig, steps: int) -> float:
    """Return the probability of a random action after this many steps."""
    part = min(1.0, steps / config.exploration_steps)
    return config.epsilon_start + part * (config.epsilon_end - config.epsilon_start)


def epsilon_greedy(q: Tensor, probability: float, first: float, second: float) -> int:
    """Choose among actions with values q (A,) by two numbers from (0, 1]."""
    if first <= probability:
        return min(int(second * len(q)), len(q) - 1)
    return int(q.argmax())
