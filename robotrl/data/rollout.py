"""On-policy data: T steps of N environments, and generalised advantage estimation over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robotrl.core.types import Obs, Step


@dataclass
class Rollout:
    """T steps of N environments in the order they happened.

    Attributes:
        obs: group -> (T, N, D), what was acted on.
        action: (T, N, A), as drawn, before any cut at the actuators' limits.
        log_prob: (T, N) of those draws.
        reward: (T, N).
        terminated: (T, N) bool.
        truncated: (T, N) bool.
        valid: (T, N) bool, False where the simulation failed.
        last_obs: group -> (N, D), what comes after the last step.
        final_obs: group -> (K, D), the true successors of the K truncated steps, in (t, n) order.
    """

    obs: Obs
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    last_obs: Obs
    final_obs: Obs


class RolloutBuffer:
    """Preallocated storage that is filled step by step and read as a `Rollout`."""

    def __init__(self, num_steps: int, num_envs: int, obs_dims: dict[str, int], action_dim: int) -> None:
        shape = (num_steps, num_envs)
        self.obs = {group: torch.empty(*shape, dim) for group, dim in obs_dims.items()}
        self.action = torch.empty(*shape, action_dim)
        self.log_prob, self.reward = torch.empty(shape), torch.empty(shape)
        self.terminated, self.truncated, self.valid = (torch.empty(shape, dtype=torch.bool) for _ in range(3))
        self._final: list[Obs] = []
        self._t = 0

    def add(self, obs: Obs, action: Tensor, log_prob: Tensor, step: Step) -> None:
        """Store one control step.

        Args:
            obs: group -> (N, D), what was acted on.
            action: (N, A), as drawn from the policy's distribution, not cut.
            log_prob: (N,), of the draw.
            step: what the environments answered.
        """
        t = self._t
        for group, values in obs.items():
            self.obs[group][t] = values
        self.action[t], self.log_prob[t], self.reward[t] = action, log_prob, step.reward
        self.terminated[t], self.truncated[t], self.valid[t] = step.terminated, step.truncated, step.valid
        if bool(step.truncated.any()):
            self._final.append({group: values[step.truncated] for group, values in step.final_obs.items()})
        self._t += 1

    def finish(self, last_obs: Obs) -> Rollout:
        """Return the rollout and start over; its tensors are reused by the next one."""
        final = {
            group: torch.cat([rows[group] for rows in self._final] or [values[:0]])
            for group, values in last_obs.items()
        }
        self._final, self._t = [], 0
        return Rollout(
            self.obs,
            self.action,
            self.log_prob,
            self.reward,
            self.terminated,
            self.truncated,
            self.valid,
            last_obs,
            final,
        )


def successor_values(rollout: Rollout, values: Tensor, value: Callable[[Obs], Tensor]) -> Tensor:
    """Return V(s') of every step, (T, N): the true successor's, never that of a reset observation.

    Args:
        rollout: T steps.
        values: (T, N) values of `rollout.obs`.
        value: maps group -> (B, D) to (B,).
    """
    after = torch.cat([values[1:], value(rollout.last_obs).unsqueeze(0)])
    if bool(rollout.truncated.any()):
        after[rollout.truncated] = value(rollout.final_obs)
    return after.masked_fill(rollout.terminated, 0.0)


def generalized_advantage(
    reward: Tensor,
    values: Tensor,
    next_values: Tensor,
    done: Tensor,
    valid: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """GAE(gamma, lambda) (Schulman et al. 2016, arXiv:1506.02438, eq. 16), (T, N).

    delta_t = r_t + gamma V(s'_t) - V(s_t);  A_t = delta_t + gamma lambda A_{t+1}, cut where an episode
    ended. `next_values` is 0 after a terminal step and the final observation's value after a truncation.
    A step that is not `valid` has delta 0: the one before it bootstraps from V(s'), and no further.
    """
    delta = (reward + gamma * next_values - values).masked_fill(~valid, 0.0)
    decay = gamma * gae_lambda * (~done).to(reward.dtype)
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in range(delta.shape[0] - 1, -1, -1):
        running = torch.addcmul(delta[t], decay[t], running)
        advantage[t] = running
    return advantage
