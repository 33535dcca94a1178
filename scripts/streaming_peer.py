"""What `bench_streaming*.py` compare with.

`PeerAC` is stream AC(lambda) with ObGD as one writes it in torch, the structure that other
implementations have: modules, autograd, an optimiser per tensor; float32. `make_reference` starts the
readable version that the tests hold the compiled one to.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from robotrl.algorithms.streaming.actor_critic import StreamAC
from robotrl.algorithms.streaming.config import StreamACConfig
from robotrl.algorithms.streaming.reference import ReferenceAC


def make_network(in_dim: int, out_dim: int, hidden: int = 128) -> nn.Sequential:
    """Two hidden layers with LayerNorm and LeakyReLU, 90 % of the weights zero."""
    net = nn.Sequential(
        nn.Linear(in_dim, hidden),
        nn.LayerNorm(hidden, elementwise_affine=False),
        nn.LeakyReLU(),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden, elementwise_affine=False),
        nn.LeakyReLU(),
        nn.Linear(hidden, out_dim),
    )
    for parameter in net.parameters():
        if parameter.ndim == 2:
            bound = parameter.shape[1] ** -0.5
            nn.init.uniform_(parameter, -bound, bound)
            with torch.no_grad():
                parameter *= torch.rand_like(parameter) < 0.1
        else:
            nn.init.zeros_(parameter)
    return net


class ObGD(torch.optim.Optimizer):
    """Overshooting-bounded gradient descent on traces, tensor by tensor."""

    def __init__(self, parameters: Iterable[Tensor], kappa: float, decay: float) -> None:
        super().__init__(parameters, {"kappa": kappa, "decay": decay})

    @torch.no_grad()
    def step(self, delta: float, resets: bool) -> None:  # type: ignore[override]
        """Move along the traces of the gradients that the parameters hold."""
        (group,) = self.param_groups
        norm = 0.0
        for parameter in group["params"]:
            state = self.state[parameter]
            if not state:
                state["trace"] = torch.zeros_like(parameter)
            state["trace"].mul_(group["decay"]).add_(parameter.grad)
            norm += state["trace"].abs().sum().item()
        step = 1.0 / max(group["kappa"] * max(abs(delta), 1.0) * norm, 1.0)
        for parameter in group["params"]:
            trace = self.state[parameter]["trace"]
            parameter.add_(trace, alpha=step * delta)
            if resets:
                trace.zero_()


class RunningMeanStd:
    """Welford's running mean and variance."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count, self.mean, self.p = 0, np.zeros(shape), np.zeros(shape)

    def update(self, x: np.ndarray | float) -> np.ndarray:
        """Take in a sample; return the standard deviation."""
        self.count += 1
        d = x - self.mean
        self.mean = self.mean + d / self.count
        self.p = self.p + d * (x - self.mean)
        return np.sqrt((self.p / (self.count - 1) if self.count > 1 else np.ones_like(self.p)) + 1e-8)


class PeerAC:
    """One stream: `start`, then `act` and `update` in turns."""

    def __init__(self, obs_dim: int, action_dim: int) -> None:
        self.gamma, self.entropy_coef = 0.99, 0.01
        self.actor = make_network(obs_dim, 2 * action_dim)
        self.critic = make_network(obs_dim, 1)
        self.actor_optimizer = ObGD(self.actor.parameters(), 3.0, 0.99 * 0.8)
        self.critic_optimizer = ObGD(self.critic.parameters(), 2.0, 0.99 * 0.8)
        self.obs_statistics, self.reward_statistics = RunningMeanStd((obs_dim,)), RunningMeanStd(())
        self.reward_sum = 0.0

    def start(self, obs: np.ndarray) -> None:
        """Begin an episode at obs (D,)."""
        self.state = self._normalize(obs)

    def _normalize(self, obs: np.ndarray) -> Tensor:
        std = self.obs_statistics.update(obs)
        return torch.tensor((obs - self.obs_statistics.mean) / std, dtype=torch.float32)

    def _policy(self) -> torch.distributions.Normal:
        mean, pre = self.actor(self.state).chunk(2)
        return torch.distributions.Normal(mean, nn.functional.softplus(pre))

    def act(self) -> np.ndarray:
        """Draw an action (A,)."""
        self.action = self._policy().sample()
        return self.action.numpy()

    def update(self, reward: float, terminated: bool, next_obs: np.ndarray) -> None:
        """Learn from one transition."""
        next_state = self._normalize(next_obs)
        self.reward_sum = self.gamma * self.reward_sum + reward
        scaled = reward / float(self.reward_statistics.update(self.reward_sum))
        value, next_value = self.critic(self.state), self.critic(next_state)
        delta = (scaled + self.gamma * next_value * (not terminated) - value).item()
        policy = self._policy()
        entropy = self.entropy_coef * policy.entropy().sum() * np.sign(delta)
        self.actor_optimizer.zero_grad()
        self.critic_optimizer.zero_grad()
        value.backward()
        (policy.log_prob(self.action).sum() + entropy).backward()
        self.actor_optimizer.step(delta, terminated)
        self.critic_optimizer.step(delta, terminated)
        self.state = next_state


def make_reference(config: StreamACConfig, obs_dim: int, action_dim: int) -> ReferenceAC:
    """Return the readable version with the weights that a compiled stream starts from, float64."""
    start = StreamAC(obs_dim, action_dim, 1, config, dtype=np.float64)
    networks = [[torch.from_numpy(w.copy()) for w in start.layers(head, 0)] for head in start.heads]
    return ReferenceAC(config, obs_dim, start.actor, *networks)


@torch.no_grad()
def draw(learner: ReferenceAC) -> Tensor:
    """Return an action (A,)."""
    return learner.policy(learner.actor).sample()
