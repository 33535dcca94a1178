"""Tasks with demonstrators: how often they succeed, with and without noise, and that chance does not."""

from __future__ import annotations

import pytest
import torch
from demonstrations import chance, commanded, demonstrator, first_episodes

from robotrl.compose import compose_task
from robotrl.envs.vec_env import VecEnv

NAMES = ("two_gaps", "maze_reach", "planar_push")


@pytest.mark.parametrize(
    ("name", "noise_std", "lowest", "highest"),
    [
        ("two_gaps", 0.0, 1.0, 1.0),
        ("two_gaps", 0.3, 0.98, 1.0),
        ("maze_reach", 0.0, 1.0, 1.0),
        ("maze_reach", 0.3, 0.99, 1.0),
        ("planar_push", 0.0, 0.95, 1.0),
        ("planar_push", 0.3, 0.7, 0.9),
    ],
)
def test_the_demonstrator_succeeds(name: str, noise_std: float, lowest: float, highest: float) -> None:
    episodes = first_episodes(compose_task(name, {}), demonstrator(noise_std), 256)
    assert lowest <= episodes.rate <= highest


@pytest.mark.parametrize(
    ("name", "highest"), [("two_gaps", 0.05), ("maze_reach", 0.03), ("planar_push", 0.03)]
)
def test_chance_hardly_ever_succeeds(name: str, highest: float) -> None:
    assert first_episodes(compose_task(name, {}), chance(), 64).rate <= highest


@pytest.mark.parametrize("name", NAMES)
def test_environments_share_nothing_and_threads_change_nothing(name: str) -> None:
    """The same bits on one and two threads; other actions in the last environment concern the last only."""
    task = compose_task(name, {"episode_length_s": 2.0})
    envs = [VecEnv(task, 6, seed=4, num_threads=threads) for threads in (1, 2, 1)]
    first = [env.reset()["policy"] for env in envs]
    assert torch.equal(first[0], first[1])
    ended = False
    for _ in range(30):
        action = commanded(envs[0])
        changed = action.clone()
        changed[-1] = -action[-1]
        steps = [env.step(values) for env, values in zip(envs, (action, action, changed), strict=True)]
        assert torch.equal(steps[0].obs["policy"], steps[1].obs["policy"])
        assert torch.equal(steps[0].reward, steps[1].reward)
        # new episodes draw from the same numbers in turn: equal until one ends somewhere
        ended = ended or bool((steps[0].done | steps[2].done).any())
        if not ended:
            assert torch.equal(steps[0].obs["policy"][:-1], steps[2].obs["policy"][:-1])
            assert not torch.equal(steps[0].obs["policy"][-1], steps[2].obs["policy"][-1])
    assert ended
