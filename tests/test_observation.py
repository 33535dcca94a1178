"""How observation groups are put together: the quick way against the plain one."""

from __future__ import annotations

import pytest
import torch

from robotrl.compose import compose_task
from robotrl.envs.observation import Observer, _side_by_side
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.control_suite.cheetah import Cheetah


class Reversed(Cheetah):
    """Observes the cheetah's terms backwards, so that they form no block of the state."""

    def observation_terms(self, model):
        return {"policy": super().observation_terms(model)["policy"][::-1]}

    def observe(self, sim):
        return {"policy": dict(reversed(super().observe(sim)["policy"].items()))}


# one block of the state; several blocks; outputs and computed terms
@pytest.mark.parametrize("task", ["cheetah_run", Reversed(), "walker_walk", "reacher_easy", "Hopper-v5"])
def test_the_quick_way_shows_what_the_plain_one_does(task) -> None:
    task = compose_task(task, {}) if isinstance(task, str) else task
    env = VecEnv(task, 5, seed=1, num_threads=2)
    env.max_steps = 7
    env.reset()
    plain = Observer(env.task, env.sim, task.observation_terms(env.sim.model))
    rng = torch.Generator().manual_seed(0)
    for _ in range(15):
        step = env.step(2 * torch.rand(5, env.specs.action_dim, generator=rng) - 1)
        named = env.task.observe(env.sim)["policy"]
        shown = _side_by_side([named[term.name] for term in env.specs.observation["policy"]])
        assert torch.equal(step.obs["policy"], shown)
        assert torch.equal(plain()["policy"], shown)
        kept = env.sim.batch.state.copy()
        step.obs["policy"].zero_()
        assert (env.sim.batch.state == kept).all()


def test_which_groups_need_no_call_of_the_task() -> None:
    def live(task) -> bool:
        env = VecEnv(task, 2, num_threads=1)
        env.reset()
        return bool(env._observer._live)

    assert live(compose_task("cheetah_run", {})) and live(Reversed())
    # sin and cos are computed
    assert not live(compose_task("cartpole_swingup", {}))
