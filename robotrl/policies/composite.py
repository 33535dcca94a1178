"""What policies that are built on another policy share."""

from __future__ import annotations

from robotrl.policies.policy import Policy


class CompositePolicy(Policy):
    """Sees what its base sees, normalised by the base, and decides for as many control steps.

    Args:
        base: the policy that it is built on.
    """

    def __init__(self, base: Policy) -> None:
        super().__init__(base.specs, list(base.obs_groups), normalize_obs=False)
        self.base = base
        self.normalizer = base.normalizer
        self.horizon = base.horizon

    @property
    def sampling_steps(self) -> int | None:
        """Of the base."""
        return self.base.sampling_steps

    def set_sampling_steps(self, count: int) -> None:
        """Let the base decide in `count` denoising steps, see `Policy`."""
        self.base.set_sampling_steps(count)
