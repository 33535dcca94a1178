"""Residual over whole trained policies: what another algorithm built around a network stays in it."""

from __future__ import annotations

import shutil

import pytest
import torch

from robotrl.compose import compose
from robotrl.core.config import from_yaml
from robotrl.core.errors import UsageError
from robotrl.envs.env import specs_of
from robotrl.export.verify import verify_bundle
from robotrl.training.restore import load_policy_and_config, load_trained
from robotrl.training.run_folder import RunFolder
from robotrl.training.train import resume, train

TINY = ["task=pendulum_swingup", "task.episode_length_s=0.5", "eval_episodes=2", "seed=3", "torch_threads=1"]
REPLAY = ["num_envs=4", "algorithm.hidden=[8]", "algorithm.batch_size=8", "algorithm.learning_starts=1"]
REPLAY += ["algorithm.replay_ratio=0.05", "total_steps=200"]
RESIDUAL = [*REPLAY, "algorithm=residual", "algorithm.residual_hidden=[8]"]
SOURCES = {
    "expo": [
        *REPLAY, "algorithm=expo", "policy=flow", "policy.hidden=[8]", "policy.steps=2", "policy.horizon=2",
        "algorithm.num_samples=3", "algorithm.num_edits=2", "algorithm.edit_hidden=[8]",
    ],
    "gorl": [
        "algorithm=gorl", "num_envs=4", "algorithm.num_steps=16", "total_steps=256", "algorithm.stages=[1,1]",
        "algorithm.data_share=0.25", "algorithm.decoder.hidden=[8]", "algorithm.decoder.steps=3",
        "algorithm.decoder.epochs=2", "policy.hidden=[8]",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", list(SOURCES))
def test_a_residual_keeps_the_whole_policy_of_another_algorithm(name, tmp_path):
    runs = [*TINY, f"runs_dir={tmp_path}"]
    source = train(compose([*runs, *SOURCES[name], "export=false"]), show_progress=False)
    theirs, _ = load_policy_and_config(source)
    first = train(
        compose([*runs, *RESIDUAL, f"algorithm.init_from={source}", "export=false"]), show_progress=False
    )
    second = train(compose([*runs, *RESIDUAL, f"algorithm.init_from={first}"]), show_progress=False)
    shutil.rmtree(source)  # needed at the start only
    shutil.rmtree(first)
    told = RunFolder(second).config_file
    told.write_text(told.read_text().replace("total_steps: 200\n", "total_steps: 300\n", 1))
    resume(second, show_progress=False)
    assert load_trained(second).log_step == 300
    ours, config = load_policy_and_config(second)
    assert type(ours.base.base) is type(theirs) and ours.horizon == theirs.horizon
    obs = {"policy": torch.randn(50, specs_of(config.task).obs_dim("policy"))}
    draws = [torch.Generator().manual_seed(5) for _ in range(2)]
    theirs_do = theirs.act(obs, deterministic=True, rng=draws[0])
    ours_do = ours.base.base.act(obs, deterministic=True, rng=draws[1])
    assert theirs_do.std() > 1e-3
    torch.testing.assert_close(ours_do, theirs_do, rtol=0, atol=0)
    assert (ours.act(obs, deterministic=True) - theirs_do).abs().max() > 1e-4  # two corrections on top

    written = from_yaml(RunFolder(second).config_file)
    assert written == config and written.origin.origin.algorithm == compose([*TINY, *SOURCES[name]]).algorithm
    assert all(check.passed for check in verify_bundle(RunFolder(second).bundle, ours))


def test_an_origin_is_not_to_be_given(tmp_path):
    words = [*TINY, "algorithm=sac", f"runs_dir={tmp_path}"]
    origin = "origin={algorithm: {_target_: robotrl.algorithms.off_policy.sac.SAC}}"
    with pytest.raises(UsageError, match=r"origin is written by runs .*give algorithm\.init_from=RUN"):
        train(compose([*words, origin]), show_progress=False)
    with pytest.raises(UsageError, match="origin: expected the sections algorithm and policy, got 'RUN'"):
        compose([*words, "origin=RUN"])
