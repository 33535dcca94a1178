"""What every policy is: an observation-to-action network that knows its groups and action spec.

Shapes: A is the action size of one control step, h the control steps of a decision (`horizon`). A
decision is one flat row (h*A), step by step: [a_0, a_1, ...]; with h = 1 it is an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from robotrl.core.errors import UsageError, unknown_name
from robotrl.core.types import Obs, Specs
from robotrl.networks.mlp import MLP
from robotrl.networks.normalizer import RunningNormalizer
from robotrl.policies.chain import Chain
from robotrl.policies.distributions import ActionDistribution, SquashedDraw


class Policy(nn.Module, ABC):
    """A policy acts on the observation groups it names and returns actions in [-1, 1].

    The observation normaliser belongs to it, so that a saved or exported policy takes raw
    observations. It never names an algorithm.

    Args:
        specs: of the environment.
        obs_groups: observation groups, put side by side in this order.
        normalize_obs: whether raw observations are normalised by running statistics.
        obs_clip: at how many standard deviations those are cut.

    Attributes:
        horizon: h, control steps of one decision (an action chunk); 1 is no chunk.
        noise_dim: standard normal numbers that one decision is made from; 0 where the network alone
            decides.
    """

    config_class: ClassVar[type]
    horizon: int = 1
    noise_dim: int = 0

    def __init__(
        self, specs: Specs, obs_groups: list[str], normalize_obs: bool, obs_clip: float = 10.0
    ) -> None:
        super().__init__()
        for group in obs_groups:
            if group not in specs.observation:
                raise unknown_name("observation group", group, specs.observation)
        self.obs_groups = tuple(obs_groups)
        self.specs = specs
        self.obs_dim = specs.obs_dim(*obs_groups)
        self.action_dim = specs.action_dim
        self.normalizer = RunningNormalizer(self.obs_dim, obs_clip) if normalize_obs else None

    @property
    def chunk_dim(self) -> int:
        """Width of one decision, h*A."""
        return self.horizon * self.action_dim

    @property
    def sampling_steps(self) -> int | None:
        """Denoising steps of one decision, None where it is not made in such steps."""
        return None

    def set_sampling_steps(self, count: int) -> None:
        """Decide in `count` denoising steps from now on; what was learned stays.

        Raises:
            UsageError: the policy cannot.
        """
        raise UsageError(f"{type(self).__name__} has no denoising steps: their number cannot be chosen")

    def flatten(self, obs: Obs) -> Tensor:
        """Put the policy's groups side by side, (B, D), raw.

        Raises:
            UsageError: they are not of this shape.
        """
        groups = [obs[group] for group in self.obs_groups]
        flat = groups[0] if len(groups) == 1 else torch.cat(groups, dim=-1)
        if flat.ndim != 2 or flat.shape[1] != self.obs_dim:
            raise UsageError(
                f"observations {', '.join(self.obs_groups)} have shape {tuple(flat.shape)}, expected "
                f"(B, {self.obs_dim}): a row for each environment, of one, too"
            )
        return flat

    def normalize(self, flat: Tensor) -> Tensor:
        """Normalise raw (B, D) observations."""
        return flat if self.normalizer is None else self.normalizer(flat)

    def draw_noise(self, batch_shape: Sequence[int], rng: torch.Generator | None) -> Tensor:
        """Draw standard normal noise, (*batch_shape, noise_dim), on the policy's device."""
        like = next(self.parameters())
        shape = (*batch_shape, self.noise_dim)
        return torch.empty(shape, dtype=like.dtype, device=like.device).normal_(generator=rng)

    def given(self, noise: Tensor | None) -> Tensor:
        """Return the noise that a decision is made from.

        Raises:
            UsageError: there is none.
        """
        if noise is None:
            raise UsageError(
                f"{type(self).__name__} decides from noise: also give it (B, {self.noise_dim}) normal numbers"
            )
        return noise

    @abstractmethod
    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the decision (B, h*A) in [-1, 1], a function of its inputs alone: what is exported.

        Args:
            flat: raw observations (B, D).
            noise: (B, noise_dim), standard normal; only where `noise_dim` is above 0.
        """

    @abstractmethod
    def act(self, obs: Obs, deterministic: bool = False, rng: torch.Generator | None = None) -> Tensor:
        """Return decisions (B, h*A) in [-1, 1].

        Args:
            obs: group -> (B, D) float32, raw.
            deterministic: without exploration: the mode of a distribution instead of a draw. What makes
                its decision from noise draws that in both cases.
            rng: where the draws come from.
        """

    def sample(self, obs: Obs, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Draw n decisions per state, (B, n, h*A)."""
        repeated = {group: values.repeat_interleave(n, dim=0) for group, values in obs.items()}
        return self.act(repeated, rng=rng).unflatten(0, (-1, n))


class StochasticPolicy(Policy):
    """A policy with a density: `distribution` gives samples, log-probabilities and entropies."""

    @abstractmethod
    def head(self, features: Tensor) -> ActionDistribution:
        """p(a | s) for normalised observations (B, D), as `normalize` returns them."""

    def distribution(self, obs: Obs) -> ActionDistribution:
        """p(a | s) for a batch of raw observations."""
        return self.head(self.normalize(self.flatten(obs)))

    def to_bounds(self, action: Tensor, obs: Obs) -> Tensor:
        """Map a draw of `distribution(obs)` to an action the actuators accept; identity if bounded."""
        return action

    def act(self, obs: Obs, deterministic: bool = False, rng: torch.Generator | None = None) -> Tensor:
        """Return the mode or a draw, (B, A) in [-1, 1]."""
        if deterministic:
            return self(self.flatten(obs))
        return self.to_bounds(self.distribution(obs).sample(rng), obs)

    def log_prob(self, obs: Obs, action: Tensor) -> Tensor:
        """Log density of (B, A), (B,)."""
        return self.distribution(obs).log_prob(action)

    def entropy(self, obs: Obs) -> Tensor:
        """(B,)."""
        return self.distribution(obs).entropy()

    def bc_loss(
        self,
        features: Tensor,
        action: Tensor,
        rng: torch.Generator,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the negative log-likelihood of actions, see `HasBcLoss`; draws nothing."""
        loss = -masked(self.head(features).log_probs(action), mask).sum(-1)
        return loss if weight is None else loss * weight


@runtime_checkable
class HasDensity(Protocol):
    """Capability: log-probability and entropy of the action distribution.

    Learners that evaluate one state's distribution several ways take it whole, as `distribution`.
    """

    def distribution(self, obs: Obs) -> ActionDistribution:
        """p(a | s) for a batch of raw observations."""
        ...

    def to_bounds(self, action: Tensor, obs: Obs) -> Tensor:
        """Map a draw of `distribution(obs)`, (B, A), to an action in [-1, 1]; identity if bounded."""
        ...

    def log_prob(self, obs: Obs, action: Tensor) -> Tensor:
        """Log density of (B, A), (B,)."""
        ...

    def entropy(self, obs: Obs) -> Tensor:
        """(B,)."""
        ...


@runtime_checkable
class HasSquashedDraw(Protocol):
    """Capability: squashed Gaussian draws with written-out gradients."""

    net: MLP

    def draw(self, features: Tensor, rng: torch.Generator | None) -> tuple[SquashedDraw, list[Tensor]]:
        """Draw actions for normalised observations (B, D)."""
        ...

    def backprop(
        self,
        draw: SquashedDraw,
        tape: list[Tensor],
        grad_action: Tensor,
        grad_log_prob: Tensor,
        flat_grad: Tensor,
    ) -> None:
        """Propagate the gradients of a draw into the network's parameters."""
        ...


@runtime_checkable
class HasBcLoss(Protocol):
    """Capability: imitation of given actions (`bc_loss`)."""

    def bc_loss(
        self,
        features: Tensor,
        action: Tensor,
        rng: torch.Generator,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the imitation loss of each row, (B,), with gradients.

        Args:
            features: (B, D), normalised observations, as `normalize` returns them.
            action: (B, h*A) in [-1, 1], to be imitated.
            rng: where noise and times are drawn from.
            weight: (B,), factors of the rows' losses.
            mask: (B, h), 1 for the steps of a decision that count and 0 for the others.
        """
        ...


@runtime_checkable
class HasLatent(Protocol):
    """Capability: decisions made from noise (`decode`)."""

    noise_dim: int

    def draw_noise(self, batch_shape: Sequence[int], rng: torch.Generator | None) -> Tensor:
        """Draw standard normal noise, (*batch_shape, noise_dim)."""
        ...

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Map noise to decisions in [-1, 1]: a function of its inputs alone.

        Args:
            features: (B, D), normalised observations, as `normalize` returns them.
            noise: (B, noise_dim), or (B, n, noise_dim) for n decisions per state.

        Returns:
            (B, h*A) or (B, n, h*A).
        """
        ...


@runtime_checkable
class HasChain(Protocol):
    """Capability: log-probability of the denoising steps (`sample_chain`, `chain_log_prob`)."""

    def sample_chain(self, features: Tensor, min_std: float, rng: torch.Generator | None) -> Chain:
        """Draw a decision for each of (B, D), with a Gaussian step of at least `min_std` at a time."""
        ...

    def chain_log_prob(self, features: Tensor, chain: Chain) -> Tensor:
        """Log density of each step of a chain, (B, K), with gradients."""
        ...


def masked(terms: Tensor, mask: Tensor | None) -> Tensor:
    """Zero terms (B, h*A) of decisions at the steps that do not count by `mask`, (B, h); None counts all."""
    if mask is None:
        return terms
    return (terms.unflatten(-1, (mask.shape[-1], -1)) * mask.unsqueeze(-1)).flatten(-2)


def require(policy: Any, capabilities: tuple[type, ...], algorithm: str) -> None:
    """Check that a policy can do what an algorithm needs.

    Raises:
        UsageError: a capability is missing; names policies that have it.
    """
    for capability in capabilities:
        if not isinstance(policy, capability):
            summary = (capability.__doc__ or "").split("\n")[0].removeprefix("Capability: ").rstrip(".")
            raise UsageError(
                f"{algorithm} needs a policy with {summary}, which {type(policy).__name__} has not; "
                "leave `policy` at its default (`robotrl list policies`), or choose another run for "
                "algorithm.init_from"
            )
