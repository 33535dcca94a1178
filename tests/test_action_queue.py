"""Action chunks run through step by step, each environment on its own clock."""

from __future__ import annotations

import torch
from counter_env import NativeCounters
from gymnasium.vector import AutoresetMode

from robotrl.core.types import Obs
from robotrl.envs.action_queue import ActionQueue
from robotrl.envs.foreign.vec_env import ForeignVecEnv


def numbered(calls: list[list[int]]):
    """Decide chunks of 3 steps of 2 numbers that say which decision, environment and step they are of."""

    def decide(obs):
        ids = obs["id"][:, 0].tolist()
        calls.append([int(i) for i in ids])
        rows = [[100 * len(calls) + 10 * i + step] * 2 for i in ids for step in range(3)]
        return torch.tensor(rows, dtype=torch.float32).view(len(ids), 6)

    return decide


def test_chunks_run_out_and_ended_episodes_ask_anew():
    queue, calls = ActionQueue(2, 3, 2), []
    decide, obs = numbered(calls), {"id": torch.tensor([[0.0], [1.0]])}
    assert queue.next(obs, decide)[:, 0].tolist() == [100, 110]
    queue.ended(torch.tensor([False, True]))
    # environment 1 begins a new episode: a new chunk; environment 0 goes on with its old one
    assert queue.next(obs, decide)[:, 1].tolist() == [101, 210]
    assert queue.next(obs, decide)[:, 0].tolist() == [102, 211]
    assert queue.next(obs, decide)[:, 0].tolist() == [300, 212]
    assert queue.next(obs, decide)[:, 0].tolist() == [301, 410]
    assert calls == [[0, 1], [1], [0], [1]]


def test_no_chunk_goes_on_in_the_next_episode_where_that_begins_a_call_later() -> None:
    vector = NativeCounters(3, AutoresetMode.NEXT_STEP)
    env, queue = ForeignVecEnv(vector, "counter", seed=3), ActionQueue(3, 4, 2)
    obs, episodes = env.reset(), 0.0

    def decide(obs: Obs) -> torch.Tensor:
        return (obs["policy"][:, 1:2] / 100).expand(-1, 8)  # the episode, in every action of the chunk

    for _ in range(40):
        action = queue.next(obs, decide)
        step = env.step(action)
        queue.after(step)
        torch.testing.assert_close(action[step.valid, 0], obs["policy"][step.valid, 1] / 100)
        obs, episodes = step.obs, float(obs["policy"][:, 1].min())
    assert episodes >= 3


def test_single_steps_are_decided_every_time():
    queue = ActionQueue(2, 1, 2)
    for k in range(3):
        action = queue.next({"id": torch.zeros(2, 1)}, lambda obs, k=k: torch.full((2, 2), float(k)))
        assert action.tolist() == [[k, k], [k, k]]


def test_state_round_trip_in_the_middle_of_a_chunk():
    first, second, calls = ActionQueue(2, 3, 2), ActionQueue(2, 3, 2), []
    decide, obs = numbered(calls), {"id": torch.tensor([[0.0], [1.0]])}
    first.next(obs, decide)
    second.load_state_dict(first.state_dict())
    first.next(obs, decide)
    assert second.next(obs, decide).tolist() == [[101, 101], [111, 111]]
    assert len(calls) == 1
