"""The learner of `action_value` once more, one stream in plain torch with autograd; see `reference`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from robotrl.algorithms.streaming.actor_critic import Actor
from robotrl.algorithms.streaming.config import StreamDACConfig, StreamSACConfig
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.reference import Layers, ReferenceRule, ReferenceStream, gradient, network


class ReferenceQAC(ReferenceStream):
    """S2AC or SDAC of one stream.

    Args:
        config: hyperparameters.
        obs_dim: D.
        kind: what the policy is made of.
        actor: initial parameters.
        critic: initial parameters.
    """

    config: StreamSACConfig | StreamDACConfig

    def __init__(
        self,
        config: StreamSACConfig | StreamDACConfig,
        obs_dim: int,
        kind: Actor,
        actor: Layers,
        critic: Layers,
    ) -> None:
        super().__init__(config, obs_dim, kind.obs_clip)
        self.kind, self.actor, self.critic = kind, actor, critic
        self.steps = 0
        self.actor_rule, self.critic_rule = (
            ReferenceRule(rule, getattr(config, f"{head}_{rule.rate}"), layers, is_policy=head == "actor")
            for head, rule, layers in (
                ("actor", config.actor_rule, actor),
                ("critic", config.rule, critic),
            )
        )

    def outputs(self, layers: Layers, state: Tensor) -> Tensor:
        """Evaluate the actor."""
        return network(layers, state, self.kind.unit)

    def draw(self, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the action (A,) that outputs and noise lead to, and its log probability."""
        if self.kind.head is Head.DETERMINISTIC:
            assert isinstance(self.config, StreamDACConfig) and self.config.noise_std is not None
            mean = torch.tanh(y)
            action = mean + self.config.noise_std * noise
            return mean + (action.clamp(-1, 1) - mean).detach(), torch.zeros((), dtype=y.dtype)
        assert isinstance(self.config, StreamSACConfig)
        mean, pre = y.chunk(2)
        if self.kind.head is Head.SQUASHED:
            std = pre.clamp(*self.kind.log_std_bounds).exp()
        else:
            std = F.softplus(pre) + self.config.std_floor
        u = mean + std * noise
        # the slope of tanh is cosh^-2
        log_prob = -0.5 * noise**2 - std.log() - 0.5 * np.log(2 * np.pi) + 2 * torch.cosh(u).log()
        return torch.tanh(u), log_prob.sum()

    def value(self, layers: Layers, state: Tensor, action: Tensor) -> Tensor:
        """Q(s, a)."""
        return network(layers, torch.cat([state, action]), self.config.critic_unit)[0]

    def update(
        self,
        noise: Tensor,
        next_noise: Tensor,
        reward: float,
        terminated: bool,
        truncated: bool,
        next_obs: npt.NDArray[np.float64],
        final_obs: npt.NDArray[np.float64],
    ) -> None:
        """Learn from one transition; `noise` (A,) led to its action and `next_noise` leads to the next."""
        ended = terminated or truncated
        self.steps += 1
        next_state, reward, gamma, resets = self.take(
            reward, terminated, truncated, final_obs if ended else next_obs
        )
        config = self.config
        alpha = config.alpha if isinstance(config, StreamSACConfig) else 0.0
        if config.scale_reward:
            alpha /= float(self.reward_statistics.std[0])
        critic = [w.clone().requires_grad_() for w in self.critic]
        actor = [w.clone().requires_grad_() for w in self.actor]
        next_action, next_log_prob = self.draw(self.outputs(self.actor, next_state), next_noise)
        next_value = self.value(self.critic, next_state, next_action) - alpha * next_log_prob
        y = self.outputs(actor, self.state)
        action, log_prob = self.draw(y, noise)
        value = self.value(critic, self.state, action.detach())
        delta = reward + gamma * float(next_value) - value.item()
        objective = self.value(self.critic, self.state, action) - alpha * log_prob
        (by_outputs,) = torch.autograd.grad(objective, y, retain_graph=True)
        size = float(by_outputs.norm())
        g_actor = [g / size for g in gradient(objective, actor)]
        self.critic_rule.step(gradient(value, critic), delta, config.gamma * config.trace_lambda, resets)
        if self.steps > config.actor_rest_steps:
            self.actor_rule.step(g_actor, size, 0.0, True)
        if ended:
            self.start(next_obs)
        else:
            self.state = next_state

    def lose_episode(self, next_obs: npt.NDArray[np.float64]) -> None:
        """Learn nothing from a step, after which an episode begins."""
        self.critic_rule.trace = [torch.zeros_like(z) for z in self.critic_rule.trace]
        self.reward_sum = 0.0
        self.start(next_obs)
