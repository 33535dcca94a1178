"""What the tests of the streaming learners share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from robotrl.algorithms.streaming.learner import StreamLearner
from robotrl.core.types import ActionTerm, ObsTerm, Specs

OBS, ACTIONS = 5, 3
SPECS = Specs(
    {"policy": (ObsTerm("x", OBS, "m"),)},
    tuple(ActionTerm(f"a{i}", "1", -1.0, 1.0) for i in range(ACTIONS)),
    0.02,
)


class Walk:
    """Random walks as observations, random rewards; episodes end now and then, either way."""

    def __init__(self, num_streams: int, obs_dim: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = (num_streams, obs_dim)
        self.obs = self.rng.normal(size=self.shape)

    def step(self) -> tuple[np.ndarray, ...]:
        """Return reward, terminated, truncated, next_obs, final_obs."""
        rng, n = self.rng, len(self.obs)
        final = 0.9 * self.obs + rng.normal(size=self.shape)
        terminated, truncated = rng.random(n) < 0.03, rng.random(n) < 0.03
        ended = terminated | truncated
        self.obs = np.where(ended[:, None], rng.normal(size=self.shape), final)
        return final.sum(1) + rng.normal(size=n), terminated, truncated, self.obs, final


def begun(learner: StreamLearner, steps: int = 0) -> Walk:
    """Start a learner on a walk and let it learn for some steps."""
    walk = Walk(learner.num_streams, learner.obs_dim)
    learner.start(walk.obs)
    run(learner, walk, steps)
    return walk


def run(learner: StreamLearner, walk: Walk, steps: int) -> None:
    """Let it learn on."""
    for _ in range(steps):
        learner.update(*walk.step())


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether two states are the same to the last bit."""
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def close(arrays: Iterable[np.ndarray], tensors: Iterable[torch.Tensor]) -> None:
    """Check equality to 1e-9 of the largest entry."""
    for array, tensor in zip(arrays, tensors, strict=True):
        expected = np.asarray(tensor)
        np.testing.assert_allclose(array, expected, rtol=1e-9, atol=1e-9 * (1e-12 + abs(expected).max()))
