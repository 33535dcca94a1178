"""What all learners from replay are: a policy and, of most of them, critics with their normaliser."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robotrl.algorithms.algorithm import Algorithm
from robotrl.algorithms.off_policy.compiled import CompiledStep, Step
from robotrl.algorithms.off_policy.config import OffPolicyConfig, ReplayConfig
from robotrl.algorithms.off_policy.critic import Critic, make_critics
from robotrl.core.errors import UsageError
from robotrl.core.types import Obs, Specs
from robotrl.data.replay import Replay, Transitions
from robotrl.networks.normalizer import RunningNormalizer
from robotrl.policies.policy import Policy


class ReplayLearner(Algorithm):
    """Learns from batches of transitions, wherever they come from.

    Attributes:
        needs_origin: whether it improves a policy that must have been trained before (`config.init_from`),
            whose statistics of observations stay.
        keeps_origin: whether it takes that policy whole, with what the algorithm before built around it.
        expects_prior: whether it is made to begin with data or with a trained policy.
        learns_online: whether it has a use for environment steps.
        learns_from_data: whether it can learn from what others did.
    """

    loop: ClassVar[str] = "off_policy"
    needs_origin: ClassVar[bool] = False
    keeps_origin: ClassVar[bool] = False
    expects_prior: ClassVar[bool] = False
    learns_online: ClassVar[bool] = True
    learns_from_data: ClassVar[bool] = True
    learns_chunks: ClassVar[bool] = True
    default_num_envs: ClassVar[int] = 1

    def __init__(self, specs: Specs, policy: Policy, config: ReplayConfig, rng: torch.Generator) -> None:
        super().__init__(specs, policy, rng)
        self.config = config

    @property
    def obs_groups(self) -> list[str]:
        """Observation groups that are learned from."""
        return list(self.policy.obs_groups)

    def make_replay(self, num_envs: int) -> Replay:
        """Return an empty replay for what so many environments do.

        Raises:
            UsageError: not even one decision fits.
        """
        capacity, steps = self.config.replay_size, self.policy.horizon
        replay = Replay(capacity, num_envs, self.replay_dims, self.specs.action_dim)
        if capacity < steps * num_envs:
            raise UsageError(
                f"replay_size {capacity} cannot take {steps} control steps of {num_envs} simulations: "
                f"raise algorithm.replay_size to at least {steps * num_envs}"
            )
        return replay

    @property
    def replay_dims(self) -> dict[str, int]:
        """Observation group that is learned from -> its size."""
        return {group: self.specs.obs_dim(group) for group in self.obs_groups}

    @property
    def least_updates(self) -> int:
        """Updates without which the policy has learned nothing."""
        return 1

    @torch.no_grad()
    def act(self, obs: Obs) -> Tensor:
        """Draw exploring decisions, (N, h A) in [-1, 1]."""
        return self.policy.act(obs, rng=self.rng)

    def decide(self, obs: Obs) -> tuple[Tensor, Tensor]:
        """Draw exploring decisions and what replay is told they were made from, (N, h A) each.

        That is the decisions themselves, unless the learner knows better (`dsrl_sac.py`).
        """
        action = self.act(obs)
        return action, action

    def observe(self, obs: Obs) -> None:
        """Merge newly collected observations into the normalisers."""
        if self.policy.normalizer is not None and not self.needs_origin:
            self.policy.normalizer.update(self.policy.flatten(obs))

    def policy_features(self, obs: Obs) -> Tensor:
        """Return what the policy's network sees, (B, D)."""
        return self.policy.normalize(self.policy.flatten(obs))

    def start_from(self, policy: Policy) -> None:
        """Begin with a trained policy.

        Raises:
            UsageError: it is of another kind.
        """
        self.take_over(policy)

    def take_over(self, policy: Policy) -> None:
        """Copy the weights of a trained policy to where this method begins with them, see `start_from`."""
        take_weights(self.policy, policy, type(self).__name__)

    def parts(self) -> dict[str, Any]:
        """Return what a checkpoint holds, by name: things with `state_dict` and `load_state_dict`."""
        return {"policy": self.policy}

    def state_dict(self) -> dict[str, Any]:
        """Return networks, normalisers, optimisers and generator."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts().items()}
        return state | {"rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.rng.set_state(state["rng"])


def take_weights(mine: nn.Module, theirs: nn.Module, algorithm: str) -> None:
    """Copy weights and statistics into a module of the same kind.

    Raises:
        UsageError: it is of another kind.
    """
    if type(mine) is not type(theirs):
        raise UsageError(
            f"{algorithm} cannot start from a {type(theirs).__name__}, it needs a {type(mine).__name__}: "
            "choose another run for algorithm.init_from"
        )
    mine.load_state_dict(theirs.state_dict())


class OffPolicyAlgorithm(ReplayLearner):
    """Learns from batches of transitions: critics at every update, the policy at every `policy_delay`th.

    Args:
        specs: of the environment.
        policy: what `make_policy` returned.
        config: hyperparameters.
        rng: of weights and draws.
        critic: that of a policy that chooses by it, which sees the policy's normalised observations; None for
            one with observation groups and a normaliser of its own.

    Attributes:
        critic: the critics.
        num_updates: critic updates so far.
    """

    config: OffPolicyConfig

    def __init__(
        self,
        specs: Specs,
        policy: Policy,
        config: OffPolicyConfig,
        rng: torch.Generator,
        critic: Critic | None = None,
    ) -> None:
        super().__init__(specs, policy, config, rng)
        self.critic_normalizer = None
        self._shares_features = critic is not None
        if critic is None:
            obs_dim = specs.obs_dim(*config.critic_groups)
            if policy.normalizer is not None:
                self.critic_normalizer = RunningNormalizer(obs_dim)
            critic = Critic(make_critics(obs_dim, policy.chunk_dim, config, rng), config)
        elif tuple(config.critic_groups) != policy.obs_groups:
            raise UsageError(
                f"{type(self).__name__} chooses by its critics, so they observe what its policy does: "
                f"set algorithm.critic_groups={list(policy.obs_groups)}, got {config.critic_groups}"
            )
        self.critic = critic
        self.num_updates = 0
        self._step: Step = self._learn
        if config.compile:
            self._step = CompiledStep(self._learn, self, critic.online.net.flat.device)

    @property
    def least_updates(self) -> int:
        """Updates without which the policy has learned nothing."""
        return self.config.policy_delay

    @property
    def obs_groups(self) -> list[str]:
        """Observation groups that policy and critics see."""
        return list(dict.fromkeys([*self.policy.obs_groups, *self.config.critic_groups]))

    def observe(self, obs: Obs) -> None:
        """Merge newly collected observations into the normalisers."""
        super().observe(obs)
        if self.critic_normalizer is not None:
            self.critic_normalizer.update(torch.cat([obs[g] for g in self.config.critic_groups], -1))

    def start_from(self, policy: Policy) -> None:
        """Begin with a trained policy; critics that observe the same begin with its statistics, too."""
        super().start_from(policy)
        mine, statistics = self.critic_normalizer, self.policy.normalizer
        if mine and statistics and tuple(self.config.critic_groups) == self.policy.obs_groups:
            mine.load_state_dict(statistics.state_dict())

    @torch.no_grad()
    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """Do one gradient step on the critics and, every `policy_delay` of them, on the policy."""
        self.num_updates += 1
        return self._step(batch, self.num_updates % self.config.policy_delay == 0)

    def _learn(self, batch: Transitions, with_policy: bool) -> dict[str, Tensor]:
        metrics = self.fit_critics(batch)
        return metrics | self.update_policy(batch) if with_policy else metrics

    def fit_critics(self, batch: Transitions) -> dict[str, Tensor]:
        """Do one gradient step on the critics."""
        return self.critic.fit(self.critic_features(batch.obs), batch.action, self.target(batch))

    @abstractmethod
    def target(self, batch: Transitions) -> Tensor:
        """Return what the critics are to say of the batch's actions, (B,)."""

    @abstractmethod
    def update_policy(self, batch: Transitions) -> dict[str, Tensor]:
        """Improve the policy on the batch's states."""

    def critic_features(self, obs: Obs) -> Tensor:
        """Return what the critics see beside the action, (B, D)."""
        if self._shares_features:
            return self.policy_features(obs)
        flat = torch.cat([obs[group] for group in self.config.critic_groups], dim=-1)
        return flat if self.critic_normalizer is None else self.critic_normalizer(flat)

    def parts(self) -> dict[str, Any]:
        """Add the critics."""
        found = super().parts() | {"critic": self.critic}
        if self.critic_normalizer is not None:
            found["critic_normalizer"] = self.critic_normalizer
        return found

    def state_dict(self) -> dict[str, Any]:
        """Add the number of updates."""
        return super().state_dict() | {"num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state)
        self.num_updates = state["num_updates"]
