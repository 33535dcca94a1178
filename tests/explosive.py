"""A cart-pole whose pole is driven until the simulation diverges."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.control_suite.cartpole import Cartpole

DRIVING = -1.25


@dataclass
class Explosive(Cartpole):
    """In some episodes the hinge drives the pole instead of braking it: ever faster, beyond all bounds."""

    share: float = 0.5
    episode_length_s: float = 1.2

    def reset(self, sim, ids, rng):
        super().reset(sim, ids, rng)
        drawn = torch.rand(len(ids), generator=rng, dtype=torch.float64) < self.share
        sim.param("dof_damping")[ids, 1] = torch.where(drawn, DRIVING, 2e-6).double()


def random_actions(env: VecEnv, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.rand(env.num_envs, env.specs.action_dim, generator=generator) * 2 - 1
