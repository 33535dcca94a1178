"""`data=`: of the run's own task, of several files, of files without bounds, and the same after a resume."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from test_datasets import SPECS, d4rl, flags, rows, two_episodes

from robotrl.cli import main
from robotrl.compose import compose, compose_task
from robotrl.core import checkpoint
from robotrl.core.errors import UsageError
from robotrl.core.types import ActionTerm
from robotrl.data.join import join
from robotrl.data.loading import load_dataset
from robotrl.deploy.bundle import Bundle
from robotrl.training.collect import CollectOptions, collect
from robotrl.training.evaluation import evaluate_run, last_evaluation
from robotrl.training.exporting import export_run, training_policy
from robotrl.training.off_policy import OffPolicyLoop
from robotrl.training.prior_data import DATA_FILE
from robotrl.training.run_folder import RunFolder
from robotrl.training.train import make_loop, resume, train

pytest.importorskip("h5py")

BALANCE = "task=cartpole_balance"
TINY = [
    "algorithm=bc", "policy=squashed_gaussian", "policy.hidden=[8]", "algorithm.batch_size=8", "num_envs=2",
    "task.episode_length_s=0.2", "total_steps=0", "algorithm.offline_updates=3", "eval_episodes=2",
    "torch_threads=1", "sim_threads=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


def record(seed: int = 0, out: str = "datasets/pole/random-v0") -> str:
    """Record two episodes of ten random actions on cartpole_balance."""
    task = compose_task("cartpole_balance", {"episode_length_s": 0.1})
    collect(
        CollectOptions("random", episodes=2, seed=seed, out=out),
        task,
        "cartpole_balance",
        show_progress=False,
    )
    return out


def test_datasets_are_joined_episode_by_episode():
    one, other = two_episodes(origin="a", provenance={"seed": 1}), two_episodes(origin="b", success=None)
    both = join([one, dataclasses.replace(other, reward=other.reward * 10)], ["policy"])
    assert both.lengths.tolist() == [3, 2, 3, 2] and both.origin == "a, b" and both.named
    assert both.monte_carlo_returns(1.0)[both.starts].tolist() == [7, 24, 70, 240]
    assert both.obs.keys() == {"policy"} and len(both.obs["policy"]) == 14
    assert both.obs["policy"][both.ends + torch.arange(4) + 1, 0].tolist() == [3, 12, 3, 12]
    assert both.success is None
    assert both.provenance == {"datasets": [{"origin": "a", "seed": 1}, {"origin": "b"}]}


def test_datasets_with_other_specs_are_not_joined():
    wider = dataclasses.replace(SPECS, action=(ActionTerm("motor", "N m", -3.0, 3.0),))
    with pytest.raises(UsageError, match=r"dataset wide: has the action 'motor' in \[-3, 3\]"):
        join([two_episodes(), two_episodes(origin="wide", specs=wider)], ["policy"])
    # the one with names decides, wherever it stands; of the other only widths and bounds are compared
    placeholder = two_episodes(origin="plain", named=False)
    assert not join([placeholder, two_episodes()], ["policy"]).named
    with pytest.raises(UsageError, match="data_any_bounds=true says that they are scaled"):
        join([dataclasses.replace(placeholder, specs=wider), two_episodes()], ["policy"])


def test_a_run_learns_from_several_datasets_and_its_bundle_names_them():
    paths = [record(1), record(2, "datasets/pole/random-v1")]
    assert main(["train", BALANCE, *TINY, f"data=[{','.join(paths)}]"]) == 0
    (file,) = Path("runs").rglob(DATA_FILE)
    assert json.loads(file.read_text())["transitions"] == 40
    assert RunFolder(file.parent).config().data == [str(Path(path).absolute()) for path in paths]
    training = json.loads((file.parent / "bundle" / "contract.json").read_text())["training"]
    assert training["data"] == paths and training["init_from"] is None


def test_data_of_another_task_are_refused_until_it_is_said():
    path = record()
    loop = make_loop(compose([BALANCE, *TINY, f"data={path}", "task.realism.action_noise=0.1"]))
    assert isinstance(loop, OffPolicyLoop) and loop.data is not None and loop.data.size == 20
    words = ["task=cartpole_swingup", *TINY, f"data={path}"]
    with pytest.raises(
        UsageError, match=r"on cartpole_balance with task.swing_up=False, .*_swingup has True"
    ):
        make_loop(compose(words))
    make_loop(compose([*words, "data_of_other_task=true"]))
    with pytest.raises(UsageError, match="recorded on cartpole_balance, the task is falling"):
        make_loop(compose([*TINY, "task._target_=test_collect.Falling", f"data={path}"]))


def test_what_is_evaluated_and_exported_amid_offline_updates_is_not_the_final_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of it has the same number of environment steps, none."""
    words = [*TINY, "algorithm.offline_updates=400", f"data={record()}"]
    run = RunFolder(train(compose([BALANCE, *words]), show_progress=False).absolute())
    final = checkpoint.load(run.latest_checkpoint())
    run.save_checkpoint(0, final | {"offline_left": 200}, 1)
    evaluate_run(run.path, episodes=2, seed=1)
    assert last_evaluation(run)[0] == -200
    export_run(run.path)
    run.save_checkpoint(0, final, 1)
    assert training_policy(run.bundle) is None
    export_run(run.path)
    assert Bundle.load(run.bundle).contract.training["return_mean"] is None
    assert training_policy(run.bundle) is not None
    monkeypatch.chdir("/")  # data and run are found from anywhere
    resume(run.path, show_progress=False)
    assert last_evaluation(run)[0] == 0 and run.is_verified


def test_a_run_is_resumed_with_the_data_that_it_began_with_only():
    path = Path(record())
    run = train(compose([BALANCE, *TINY, f"data={path}", "export=false"]), show_progress=False)
    original = path.rename("original")
    record(seed=1)
    with pytest.raises(
        UsageError, match=r"learned from other data than what is at /.*/datasets/pole/random-v0"
    ):
        resume(run, show_progress=False)
    path.rename("other")
    record()  # the same seed on the same machine: the same bits
    with pytest.raises(UsageError, match="is complete"):
        resume(run, show_progress=False)
    assert original.exists()


def test_files_without_bounds_are_of_scaled_actions_where_it_is_said():
    arrays = rows(4, timeouts=flags(4, 3))
    path = d4rl(Path("a.hdf5"), arrays)
    wide = dataclasses.replace(SPECS, observation={"policy": SPECS.observation["policy"]})
    dataset = load_dataset(path)
    with pytest.raises(
        UsageError, match=r"has the action 'action_0' in \[-1, 1\] 1 where the task has 'motor'"
    ):
        dataset.check_fits(wide, ["policy"])
    dataset.check_fits(wide, ["policy"], any_bounds=True)
    named = two_episodes(specs=dataclasses.replace(SPECS, action=(ActionTerm("motor", "N m", -1.0, 1.0),)))
    with pytest.raises(UsageError, match="has the action 'motor'"):
        named.check_fits(SPECS, ["policy"], any_bounds=True)


def test_data_are_one_path_several_or_null():
    assert compose([BALANCE, *TINY, "data=a/b-v0"]).data == ["a/b-v0"]
    assert compose([BALANCE, *TINY], {"data": Path("a/b-v0")}).data == ["a/b-v0"]
    assert compose([BALANCE, *TINY], {"data": [Path("a"), "b"]}).data == ["a", "b"]
    with pytest.raises(UsageError, match="data must name at least one dataset, or be null"):
        compose([BALANCE, *TINY, "data=[]"])
    assert compose([BALANCE, *TINY, "data=null"]).data is None


@pytest.mark.parametrize(
    ("name", "begins", "warned"),
    [("rlpd", "", True), ("rlpd", "data={data}", False), ("expo", "", True), ("sac", "", False)],
)
def test_who_is_made_for_data_and_has_none_is_told(name: str, begins: str, warned: bool, capsys):
    words = [BALANCE, f"algorithm={name}", "task.episode_length_s=0.1", "num_envs=2", "policy.hidden=[8]"]
    words += [
        "algorithm.hidden=[8]",
        "algorithm.learning_starts=1",
        "algorithm.batch_size=4",
        "eval_episodes=2",
    ]
    words += ["total_steps=4", "algorithm.replay_ratio=0.5", "algorithm.policy_delay=1", "export=false"]
    assert main(["train", *words, *([begins.format(data=record())] if begins else [])]) == 0
    told = "has neither data= nor algorithm.init_from=RUN" in " ".join(capsys.readouterr().err.split())
    assert told is warned


def test_chunks_longer_than_the_data_and_widths_that_are_none_are_refused():
    words = [BALANCE, *TINY[:1], "policy=flow", "policy.horizon=11", "total_steps=0", f"data={record()}"]
    with pytest.raises(
        UsageError, match=r"policy.horizon=11 is longer than the longest episode of the data, 10"
    ):
        train(compose([*words, *TINY[3:]]), show_progress=False)
    with pytest.raises(UsageError, match="one_step_hidden: layer widths must be at least 1"):
        compose([BALANCE, "algorithm=fql", "algorithm.one_step_hidden=[0]"])


def test_an_observation_without_rows_is_refused():
    policy = make_loop(compose([BALANCE, "algorithm=sac", "num_envs=1"])).algorithm.policy
    with pytest.raises(UsageError, match=r"have shape \(5,\), expected \(B, 5\): a row for each environment"):
        policy.act({"policy": torch.zeros(5)})
