"""S2AC and SDAC as algorithms of the training command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robotrl.algorithms.streaming.config import StreamDACConfig, StreamSACConfig
from robotrl.algorithms.streaming.streaming_algorithm import StreamingAlgorithm, StreamingOptions
from robotrl.policies.deterministic import LayerNormDeterministicPolicy
from robotrl.policies.policy import Policy
from robotrl.policies.softplus_gaussian import SquashedSoftplusPolicy


@dataclass
class StreamSoftActorCriticConfig(StreamSACConfig, StreamingOptions):
    """Hyperparameters of S2AC."""


class StreamSoftActorCritic(StreamingAlgorithm):
    """Trains a squashed Gaussian by S2AC, see `action_value`."""

    name: ClassVar[str] = "stream_sac"
    config_class: ClassVar[type] = StreamSoftActorCriticConfig
    learner_config_class: ClassVar[type[StreamSACConfig]] = StreamSACConfig
    default_policy: ClassVar[type[Policy]] = SquashedSoftplusPolicy


@dataclass
class StreamDeterministicActorCriticConfig(StreamDACConfig, StreamingOptions):
    """Hyperparameters of SDAC."""


class StreamDeterministicActorCritic(StreamingAlgorithm):
    """Trains a deterministic policy by SDAC, see `action_value`."""

    name: ClassVar[str] = "stream_dac"
    config_class: ClassVar[type] = StreamDeterministicActorCriticConfig
    learner_config_class: ClassVar[type[StreamDACConfig]] = StreamDACConfig
    default_policy: ClassVar[type[Policy]] = LayerNormDeterministicPolicy
