"""Noise whose decisions do not hang on the last digits of float32.

A policy that chooses among candidates jumps where two of them are worth the same, and a flow tears its noise
apart between two modes. Just there, two programs that round differently (torch and onnxruntime) may rightly
decide differently. Where decisions are compared, such noise is drawn again.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from robotrl.policies.policy import Policy

# relative change of the weights, 16 units of float32 rounding: several times what a network's sums lose
_JITTER = 2.0**-19
_ACCEPTED = 2e-5
_TRIES = 20


class SettledNoise:
    """Draws the noise of decisions that stay the same when every weight changes in its last digits.

    Two copies of the policy, w (1 + e) and w (1 - e) with e ~ 16 units of rounding, have to agree with it
    within 2e-5. Where twenty draws bring no such noise, the best of them is taken.

    Args:
        policy: decides; on the CPU, in evaluation mode.
        rng: where noise and changes are drawn from.
    """

    def __init__(self, policy: Policy, rng: torch.Generator) -> None:
        self.policy, self.rng = policy, rng
        self._copies = _either_side(policy, rng) if policy.noise_dim else []

    def draw(self, flat: Tensor) -> Tensor | None:
        """Return noise (B, noise_dim) for raw observations (B, D), None where the policy takes none."""
        if not self.policy.noise_dim:
            return None
        noise = self.policy.draw_noise((len(flat),), self.rng)
        doubt = self._doubt(flat, noise)
        for _ in range(_TRIES):
            if bool((doubt <= _ACCEPTED).all()):
                break
            again = self.policy.draw_noise((len(flat),), self.rng)
            doubt_again = self._doubt(flat, again)
            better = (doubt > _ACCEPTED) & (doubt_again < doubt)
            noise = torch.where(better.unsqueeze(1), again, noise)
            doubt = torch.where(better, doubt_again, doubt)
        return noise

    def _doubt(self, flat: Tensor, noise: Tensor) -> Tensor:
        """Return the largest change of each decision among the copies, (B,)."""
        decision = self.policy(flat, noise)
        return torch.stack([(policy(flat, noise) - decision).abs().amax(1) for policy in self._copies]).amax(
            0
        )


@torch.no_grad()
def _either_side(policy: Policy, rng: torch.Generator) -> list[Policy]:
    """Return copies whose weights lie on opposite sides: where values tie, one of them decides otherwise."""
    up, down = copy.deepcopy(policy), copy.deepcopy(policy)
    for above, below in zip(up.parameters(), down.parameters(), strict=True):
        change = _JITTER * torch.empty_like(above).normal_(generator=rng)
        above.mul_(1.0 + change)
        below.mul_(1.0 - change)
    return [up, down]
