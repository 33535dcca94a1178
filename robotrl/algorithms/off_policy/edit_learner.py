r"""Maximum-entropy learning of small corrections (`policies.edit.Edit`): what EXPO and residuals share.

L_edit  = E[alpha log pi(e|s, a_b) - mean_i Q_i(s, clip(a_b + beta e))]
L_alpha = -E[log alpha (log pi(e|s, a_b) + target_entropy)]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.critic import Critic
from robotrl.algorithms.off_policy.temperature import Temperature
from robotrl.networks.flat_adam import FlatAdam
from robotrl.policies.edit import Edit


@dataclass
class EditLearner:
    """Gradient steps on an edit policy and its temperature.

    Attributes:
        edit: what learns.
        temperature: of its entropy.
        learning_rate: of Adam.
    """

    edit: Edit
    temperature: Temperature
    learning_rate: float

    def __post_init__(self) -> None:
        self._optimizer = FlatAdam(self.edit.net.flat, self.learning_rate)
        self._grad = torch.empty_like(self.edit.net.flat)

    def fit(
        self, features: Tensor, base: Tensor, critic: Critic, critic_features: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Do one gradient step on both.

        Args:
            features: (B, D), what the edit policy sees.
            base: (B, h A), the actions to be edited.
            critic: whose online ensemble is climbed.
            critic_features: (B, D'), what it sees.
            rng: where edits are drawn from.
        """
        edit = self.edit
        draw, tape = edit.draw_edit(features, base, rng)
        values, pull = critic.online.with_gradient(critic_features, edit.edited(base, draw.action))
        grad = edit.edit_gradient(base, draw.action, pull(torch.full_like(values, -1 / values.numel())))
        alpha = self.temperature.alpha
        edit.backprop(draw, tape, grad, alpha / len(base), self._grad)
        self._optimizer.step(self._grad)
        log_prob = draw.log_prob.mean()
        self.temperature.update(log_prob)
        return {
            "loss/policy": alpha * log_prob - values.mean(),
            "policy/entropy": -log_prob,
            "policy/alpha": self.temperature.log_alpha.exp(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser and the temperature; the edit policy belongs to the policy."""
        return {"optimizer": self._optimizer.state_dict(), "temperature": self.temperature.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._optimizer.load_state_dict(state["optimizer"])
        self.temperature.load_state_dict(state["temperature"])
