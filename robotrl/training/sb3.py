"""Stable-Baselines3's PPO, SAC and TD3 as baselines: same tasks, configuration, metrics, run folder, export.

SB3 collects and learns; here is only what surrounds it. Its actor is copied into one of our policies
after every iteration, so that evaluation, export and reports need no SB3.

Differences from SB3's own use: TD3 explores with `policy.noise_std`, 0.1 by default (SB3 adds no noise
unless told so). SB3 seeds the global generators of Python, numpy and torch.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robotrl.algorithms.algorithm import Algorithm
from robotrl.core.errors import UsageError
from robotrl.core.types import Specs
from robotrl.envs.env import Env
from robotrl.envs.foreign.vec_env import ForeignVecEnv
from robotrl.networks.mlp import Activation
from robotrl.policies.policy import Policy
from robotrl.training.loop import STEPS_PER_ITERATION, EpisodeStatistics, Loop, refuse_no_steps
from robotrl.training.sb3_config import (
    Sb3DeterministicPolicy,
    Sb3GaussianPolicy,
    Sb3PPOConfig,
    Sb3SACConfig,
    Sb3SquashedGaussianPolicy,
    Sb3TD3Config,
)

_ACTIVATIONS = {
    Activation.RELU: nn.ReLU,
    Activation.TANH: nn.Tanh,
    Activation.ELU: nn.ELU,
    Activation.GELU: functools.partial(nn.GELU, approximate="tanh"),
    Activation.SILU: nn.SiLU,
    Activation.MISH: nn.Mish,
}
# what SB3 calls our metrics, and the factor between the two
_METRICS = {
    "train/policy_gradient_loss": ("loss/policy", 1.0),
    "train/actor_loss": ("loss/policy", 1.0),
    "train/value_loss": ("loss/value", 1.0),
    "train/critic_loss": ("loss/value", 1.0),
    "train/explained_variance": ("value/explained_variance", 1.0),
    "train/entropy_loss": ("policy/entropy", -1.0),
    "train/approx_kl": ("policy/kl", 1.0),
    "train/clip_fraction": ("policy/clip_fraction", 1.0),
    "train/ent_coef": ("policy/alpha", 1.0),
    "train/learning_rate": ("policy/learning_rate", 1.0),
}


class Sb3Algorithm(Algorithm):
    """One of SB3's algorithms. Unlike ours it steps the environments itself: `connect` hands it them.

    Attributes:
        model: SB3's object, once connected.
    """

    loop: ClassVar[str] = "sb3"
    default_num_envs: ClassVar[int] = 1

    model: Any
    policy: Any

    _critic_key: ClassVar[str] = "qf"

    def __init__(self, specs: Specs, policy: Policy, config: Any, rng: torch.Generator) -> None:
        super().__init__(specs, policy, rng)
        self.config = config
        if not isinstance(policy, self.default_policy):
            raise UsageError(
                f"{type(self).__name__} trains SB3's own network, not {type(policy).__name__}: leave "
                "`policy` at its default and set policy.hidden or policy.activation"
            )

    def connect(self, env: Env) -> None:
        """Build SB3's object on the environments.

        Raises:
            UsageError: the environments reset in calls that SB3 would learn from.
            RobotrlError: Stable-Baselines3 is not installed.
        """
        if isinstance(env, ForeignVecEnv) and env.resets_in_next_call:
            raise UsageError(
                f"{env.name} resets its environments in calls of their own, which Stable-Baselines3 would "
                "learn from: train with ppo or sac"
            )
        from robotrl.envs.sb3 import Sb3VecEnv

        options = {
            "policy": "MlpPolicy",
            "env": Sb3VecEnv(env, self.policy.obs_groups),
            "seed": int(torch.randint(2**31, (), generator=self.rng)),
            "device": "cpu",
        } | vars(self.config)
        options["policy_kwargs"] = {
            "net_arch": {"pi": self.policy.config.hidden, self._critic_key: options.pop("critic_hidden")},
            "activation_fn": _ACTIVATIONS[self.policy.config.activation],
        }
        self.model = self._make(options)
        self.copy_actor()

    @abstractmethod
    def _make(self, options: dict[str, Any]) -> Any:
        """Build SB3's object from the arguments that all three share."""

    @abstractmethod
    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        """Return weight (out, in) and bias (out,) of each layer of SB3's actor."""

    @torch.no_grad()
    def copy_actor(self) -> None:
        """Make the policy's weights those of SB3's actor."""
        net = self.policy.net
        slots = iter(net.split(net.flat))
        for weight, bias in self._layers():
            next(slots).copy_(weight.t())
            next(slots).copy_(bias)

    def steps_per_iteration(self, num_envs: int, left: int) -> int:
        """Return the environment steps until the next look at the metrics, of those that are left."""
        period = num_envs * self.config.train_freq
        return math.ceil(min(STEPS_PER_ITERATION, left) / period) * period

    def update(self, batch: Any) -> dict[str, Tensor]:
        """Let SB3 collect and learn.

        Args:
            batch: environment steps to take, and a callback for SB3's `learn`.
        """
        steps, callback = batch
        self.model.learn(steps, callback, log_interval=None, reset_num_timesteps=False)
        self.copy_actor()
        values = self.model.logger.name_to_value
        return {
            ours: torch.tensor(float(factor * values[theirs]))
            for theirs, (ours, factor) in _METRICS.items()
            if theirs in values
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the policy: what evaluation and export need."""
        return {"policy": self.policy.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"runs of {type(self).__name__} cannot be resumed: start again, or use ppo or sac")


class Sb3PPO(Sb3Algorithm):
    """Stable-Baselines3's PPO."""

    config_class: ClassVar[type] = Sb3PPOConfig
    default_policy: ClassVar[type[Policy]] = Sb3GaussianPolicy
    _critic_key: ClassVar[str] = "vf"

    def steps_per_iteration(self, num_envs: int, left: int) -> int:
        """Return the size of a rollout, which SB3 never shortens."""
        return self.config.n_steps * num_envs

    def _make(self, options: dict[str, Any]) -> Any:
        from stable_baselines3 import PPO

        options["policy_kwargs"]["log_std_init"] = math.log(self.policy.config.initial_std)
        return PPO(**options)

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        theirs = self.model.policy
        return [*_linears(theirs.mlp_extractor.policy_net), *_linears(theirs.action_net)]

    @torch.no_grad()
    def copy_actor(self) -> None:
        """Make the policy's weights those of SB3's actor."""
        super().copy_actor()
        self.policy.log_std.copy_(self.model.policy.log_std)


class Sb3SAC(Sb3Algorithm):
    """Stable-Baselines3's SAC."""

    config_class: ClassVar[type] = Sb3SACConfig
    default_policy: ClassVar[type[Policy]] = Sb3SquashedGaussianPolicy

    def _make(self, options: dict[str, Any]) -> Any:
        from stable_baselines3 import SAC

        if not options["ent_coef"].startswith("auto"):
            options["ent_coef"] = float(options["ent_coef"])
        if options["target_entropy"] is None:
            options["target_entropy"] = "auto"
        return SAC(**options)

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        actor = self.model.actor
        weights, biases = zip(*_linears(actor.mu), *_linears(actor.log_std), strict=True)
        return [*_linears(actor.latent_pi), (torch.cat(weights), torch.cat(biases))]


class Sb3TD3(Sb3Algorithm):
    """Stable-Baselines3's TD3."""

    config_class: ClassVar[type] = Sb3TD3Config
    default_policy: ClassVar[type[Policy]] = Sb3DeterministicPolicy

    def _make(self, options: dict[str, Any]) -> Any:
        from stable_baselines3 import TD3
        from stable_baselines3.common.noise import NormalActionNoise

        if self.policy.noise_std > 0:
            dim = self.specs.action_dim
            options["action_noise"] = NormalActionNoise(np.zeros(dim), np.full(dim, self.policy.noise_std))
        return TD3(**options)

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        return _linears(self.model.actor.mu)


def _linears(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(layer.weight, layer.bias) for layer in module.modules() if isinstance(layer, nn.Linear)]


class Sb3Loop(Loop):
    """Lets SB3 run, an iteration at a time; it cannot be resumed."""

    # as SB3 runs by itself
    default_torch_threads: ClassVar[int | None] = None
    resumable: ClassVar[bool] = False

    algorithm: Sb3Algorithm

    def __init__(self, env: Env, algorithm: Sb3Algorithm, total_steps: int, torch_threads: int) -> None:
        starts = getattr(algorithm.config, "learning_starts", 0)
        refuse_no_steps(total_steps)
        if total_steps <= starts:
            raise UsageError(
                f"nothing would be learned: algorithm.learning_starts={starts} is not below "
                f"total_steps={total_steps}"
            )
        super().__init__(env, algorithm, total_steps, torch_threads)
        torch.set_num_threads(torch_threads)
        algorithm.connect(env)

    def iterate(self) -> dict[str, float]:
        """Let SB3 take some steps and learn from them."""
        statistics = EpisodeStatistics()

        def watch(local_variables: dict[str, Any], _: dict[str, Any]) -> bool:
            for info in local_variables["infos"]:
                if "episode" in info:
                    episode = {"episode/return": info["episode"]["r"], "episode/length": info["episode"]["l"]}
                    statistics.add({name: torch.tensor([float(value)]) for name, value in episode.items()})
            return True

        left = self.total_steps - self.env_steps
        steps = self.algorithm.steps_per_iteration(self.env.num_envs, left)
        metrics = self.algorithm.update((steps, watch))
        self.env_steps = self.algorithm.model.num_timesteps
        return statistics.means() | {name: float(value) for name, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what evaluation and export need."""
        return {"algorithm": self.algorithm.state_dict(), "env_steps": self.env_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse.

        Raises:
            UsageError: always.
        """
        self.algorithm.load_state_dict(state["algorithm"])
