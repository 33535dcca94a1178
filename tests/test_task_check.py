"""Values of a task that do not fit what it promised are refused at the first reset."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from robotrl.core.errors import UsageError
from robotrl.core.types import ObsTerm
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.control_suite.cartpole import Cartpole


@dataclass
class Careless(Cartpole):
    """Describes a cart's velocity of `size` numbers under `name`, and returns one as "cart_velocity"."""

    name: str = "cart_velocity"
    size: int = 2

    def observation_terms(self, model):
        position, orientation, _, velocity = super().observation_terms(model)["policy"]
        return {"policy": (position, orientation, ObsTerm(self.name, self.size, "m/s"), velocity)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"Careless.observe must return policy/cart_velocity with shape \(3, 2\), got \(3,\)"),
        ({"name": "cart_speed"}, "policy/cart_speed .* got nothing"),
    ],
)
def test_observations_that_do_not_fit_their_terms(options, message):
    with pytest.raises(UsageError, match=message):
        VecEnv(Careless(**options), 3).reset()


@dataclass
class WrongShapes(Cartpole):
    """One of reward, end and success is not one value per simulation."""

    wrong: str = ""

    def reward_terms(self, sim, action):
        return super().reward_terms(sim, action) | (
            {"far": sim.data("qpos")} if self.wrong == "reward" else {}
        )

    def terminated(self, sim):
        return sim.data("qpos")[:, :1] > 1 if self.wrong == "terminated" else None

    def success(self, sim):
        return torch.tensor(True) if self.wrong == "success" else None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("reward", r"WrongShapes.reward_terms must return far with shape \(3,\), got \(3, 2\)"),
        ("terminated", r"WrongShapes.terminated must return a value with shape \(3,\), got \(3, 1\)"),
        ("success", r"WrongShapes.success must return a value with shape \(3,\), got \(\)"),
    ],
)
def test_rewards_and_ends_that_would_be_spread_over_simulations(wrong, message):
    with pytest.raises(UsageError, match=message):
        VecEnv(WrongShapes(wrong=wrong), 3).reset()
    VecEnv(WrongShapes(), 3).reset()
