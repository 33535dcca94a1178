"""Options of trainings that take a second, for the tests of whole runs."""

from __future__ import annotations

from pathlib import Path

_ALGORITHMS = {
    "ppo": [
        "algorithm=ppo",
        "policy=gaussian",
        "num_envs=8",
        "algorithm.num_steps=16",
        "algorithm.minibatch_size=64",
    ],
    "sac": [
        "algorithm=sac",
        "policy=squashed_gaussian",
        "num_envs=4",
        "algorithm.learning_starts=500",
        "algorithm.batch_size=32",
    ],
    "stream_ac": ["algorithm=stream_ac", "num_envs=4"],
    "stream_sac": ["algorithm=stream_sac", "num_envs=4"],
    "stream_dac": ["algorithm=stream_dac", "num_envs=4"],
}
_COMMON = [
    "task=cartpole_balance",
    "task.episode_length_s=0.5",
    "policy.hidden=[16]",
    "algorithm.hidden=[16]",
    "eval_episodes=2",
    "export=false",
    "torch_threads=1",
    "seed=3",
]

# a run of a second, bundle and report included
PENDULUM = [
    "task=pendulum_swingup",
    "task.episode_length_s=0.4",
    "policy.hidden=[8]",
    "algorithm=ppo",
    "algorithm.hidden=[8]",
    "algorithm.num_steps=16",
    "algorithm.minibatch_size=32",
    "num_envs=4",
    "total_steps=128",
    "eval_episodes=2",
]


def overrides(algorithm: str, runs: Path, *more: str) -> list[str]:
    """Words for `robotrl train`; an iteration of "ppo" takes 128 steps, one of the others 2000."""
    return [*_ALGORITHMS[algorithm], *_COMMON, f"runs_dir={runs}", *more]
