r"""Choose among proposals: samples of a base policy, edits of some of them, the best by a critic's word.

    {a_1 .. a_N} ~ base(.|s),  a_{N+j} = edit(s, a_j) for j <= n,  a* = argmax_k Q(s, a_k)

One class acts and makes the targets of the critics, so that IDQL (arXiv:2304.10573), Q-chunking
(arXiv:2507.07969) and EXPO (arXiv:2507.07986) differ in its arguments only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robotrl.core.types import Obs
from robotrl.networks.critic import Aggregate, CriticEnsemble
from robotrl.policies.composite import CompositePolicy
from robotrl.policies.edit import Edit, Jitter
from robotrl.policies.policy import HasLatent, Policy

Score = Callable[[Tensor, Tensor], Tensor]
"""Normalised observations (B, D) and candidates (B, m, h A) to values (B, m)."""


@dataclass(frozen=True)
class Choice:
    """What was proposed and what was taken.

    Attributes:
        candidates: (B, N + n, h A).
        values: (B, N + n), by the critics that choose.
        action: (B, h A), the candidate of the highest value.
    """

    candidates: Tensor
    values: Tensor
    action: Tensor


class CandidatePolicy(CompositePolicy):
    """The best of N samples of a base policy and n edits of them.

    Args:
        base: proposes.
        critics: choose; they see the base's normalised observations.
        aggregate: how the critics' values become one.
        pessimism: of `Aggregate.MEAN_MINUS_STD`.
        num_samples: N.
        edit: corrects proposals, None for none.
        num_edits: n, at most N.
        temperature: of the softmax by which an exploring action is drawn; 0 takes the best.
    """

    def __init__(
        self,
        base: Policy,
        critics: CriticEnsemble,
        aggregate: Aggregate,
        pessimism: float,
        num_samples: int,
        edit: Edit | Jitter | None = None,
        num_edits: int = 0,
        temperature: float = 0.0,
    ) -> None:
        super().__init__(base)
        self.critics, self.edit = critics, edit
        self.aggregate, self.pessimism = aggregate, pessimism
        self.num_samples, self.num_edits = num_samples, num_edits
        self.temperature = temperature
        self.noise_dim = num_samples * base.noise_dim + num_edits * self.chunk_dim

    def set_sampling_steps(self, count: int) -> None:
        """Let the base decide in `count` denoising steps, for which it may need other noise."""
        super().set_sampling_steps(count)
        self.noise_dim = self.num_samples * self.base.noise_dim + self.num_edits * self.chunk_dim

    def score(self, features: Tensor, candidates: Tensor) -> Tensor:
        """Return what the policy's critics say of candidates (B, m, h A), (B, m)."""
        return self.aggregate.of(self.critics.candidates(features, candidates), self.pessimism)

    def propose(self, features: Tensor, noise: Tensor, base: Policy | None = None) -> Tensor:
        """Return the candidates, (B, N + n, h A).

        Args:
            features: (B, D).
            noise: (B, noise_dim) standard normal.
            base: proposes in place of the policy's own.
        """
        base = self.base if base is None else base
        assert isinstance(base, HasLatent)
        split = self.num_samples * self.base.noise_dim
        samples = base.decode(features, noise[:, :split].unflatten(1, (self.num_samples, -1)))
        if self.edit is None:
            return samples
        edit_noise = noise[:, split:].unflatten(1, (self.num_edits, -1))
        edited = self.edit.candidates(features, samples[:, : self.num_edits], edit_noise)
        return torch.cat([samples, edited], 1)

    def improve(
        self,
        features: Tensor,
        noise: Tensor,
        base: Policy | None = None,
        score: Score | None = None,
    ) -> Choice:
        """Propose, and choose the best.

        Args:
            features: (B, D).
            noise: (B, noise_dim) standard normal.
            base: proposes in place of the policy's own.
            score: values the candidates in place of the policy's own critics.
        """
        candidates = self.propose(features, noise, base)
        values = (self.score if score is None else score)(features, candidates)
        return Choice(candidates, values, _pick(candidates, values.argmax(1)))

    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the best candidate, (B, h A), cut to [-1, 1] where its edit was not."""
        return self.improve(self.normalize(flat), self.given(noise)).action.clamp(-1.0, 1.0)

    @torch.no_grad()
    def act(self, obs: Obs, deterministic: bool = False, rng: torch.Generator | None = None) -> Tensor:
        """Return the best candidate or, exploring with a temperature, one drawn by softmax of its value."""
        features = self.normalize(self.flatten(obs))
        choice = self.improve(features, self.draw_noise((len(features),), rng))
        action = choice.action
        if self.temperature and not deterministic:
            weights = (choice.values / self.temperature).softmax(1)
            action = _pick(choice.candidates, torch.multinomial(weights, 1, generator=rng).squeeze(1))
        return action.clamp(-1.0, 1.0)


def _pick(candidates: Tensor, index: Tensor) -> Tensor:
    """Take one of (B, n, A) per row, (B, A)."""
    # take_along_dim would do, but torch.export binds it to one batch size
    return candidates.gather(1, index[:, None, None].expand(-1, 1, candidates.shape[-1])).squeeze(1)
