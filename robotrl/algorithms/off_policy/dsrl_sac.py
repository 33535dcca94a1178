r"""DSRL-SAC: soft actor-critic whose action is the noise of a frozen policy (arXiv:2506.15799).

The base's map a = dp(s, w) from noise w to actions becomes a part of the environment:

    y       = r + gamma (1 - terminated) (min_i Q'_i(s', w') - alpha log pi(w'|s')),  w' ~ pi(.|s')
    L_Q     = sum_i E[(Q_i(s, w) - y)^2]
    L_pi    = E[alpha log pi(w|s) - min_i Q_i(s, w)],                                w ~ pi(.|s)
    L_alpha = -E[log alpha (log pi(w|s) + target_entropy)]

pi(w|s) = b tanh of a Gaussian. It is `sac.py`, line by line; no update runs the base, which makes it the form
for bases that are slow (many denoising steps, large networks). In exchange it has to be told which noise an
action was made from: replay keeps that, one per chunk, and data of others cannot be learned from. DSRL with a
critic over actions (`dsrl.py`) can, and learns what the noises that were not tried would have led to.

Differences: observations are normalised; gamma and replay_ratio count control steps, not chunks; a chunk in
which the episode ends is kept, and a time limit bootstraps. The first actions are the base's own (the release
denoises them twice, which compares with nothing). Entropies are those of tanh before its scale b.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.steering import Steering
from robotrl.core.types import Obs
from robotrl.data.noise_replay import NoiseReplay


class DSRLSAC(Steering):
    """SAC over the noise of a frozen policy, and nothing else."""

    learns_from_data: ClassVar[bool] = False

    def make_replay(self, num_envs: int) -> NoiseReplay:
        """Return an empty replay that keeps the noise of decisions."""
        sizes = self.config.replay_size, num_envs, self.replay_dims, self.specs.action_dim
        return NoiseReplay(*sizes, self.policy.horizon)

    @torch.no_grad()
    def decide(self, obs: Obs) -> tuple[Tensor, Tensor]:
        """Draw exploring decisions and their noise, in units of b, (N, h A) each."""
        features = self.policy_features(obs)
        noise = self.draw_noise(features)
        return self.decode(features, noise), noise
