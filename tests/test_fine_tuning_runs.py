"""`algorithm.init_from`: a run goes on from another run's policy, under another simulator."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import overrides

from robotrl.compose import compose
from robotrl.core import checkpoint
from robotrl.core.errors import UsageError
from robotrl.export.verify import verify_bundle
from robotrl.training.fine_tuning import inherit
from robotrl.training.restore import load_policy_and_config
from robotrl.training.run_folder import RunFolder
from robotrl.training.streaming import StreamingLoop
from robotrl.training.train import make_loop, resume, train

LOADED = "task.realism.randomize.load={field: body_mass, names: cart, op: add, range: [0.5, 0.5]}"
TASK = ["task=cartpole_balance", "task.episode_length_s=0.37"]  # no multiple of which is a checkpoint


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Short runs, which no test changes."""
    folder = tmp_path_factory.mktemp("origins")
    words = {
        "ppo": overrides("ppo", folder, "total_steps=1000"),
        "sac": overrides("sac", folder, "total_steps=2000"),
        "stream_ac": overrides("stream_ac", folder, "total_steps=2000", "algorithm.std_floor=0.2"),
        "stream_sac": overrides("stream_sac", folder, "total_steps=2000"),
        "stream_dac": overrides("stream_dac", folder, "total_steps=2000", "algorithm.noise_std=0.03"),
        "beta": overrides("ppo", folder, "total_steps=128", "policy=beta"),
        "pendulum": overrides("ppo", folder, "total_steps=128", "task=pendulum_swingup"),
        "alone": overrides("ppo", folder, "total_steps=128", "num_envs=1"),
        "deep": overrides("ppo", folder, "total_steps=128", "policy.hidden=[8, 8]"),
    }
    return {name: train(compose(given), show_progress=False) for name, given in words.items()}


def words(origin: Path, folder: Path, *more: str, algorithm: str = "stream_ac") -> list[str]:
    return [
        *TASK,
        f"algorithm={algorithm}",
        "algorithm.std_scale=0.5",
        "algorithm.actor_rest_steps=50",
        f"algorithm.init_from={origin}",
        "algorithm.hidden=[16]",
        "num_envs=2",
        "eval_episodes=2",
        "seed=3",
        f"runs_dir={folder}",
        *more,
    ]


@torch.no_grad()
@pytest.mark.parametrize(
    ("origin", "algorithm"),
    [
        *((origin, "stream_ac") for origin in ("ppo", "sac", "stream_ac", "stream_sac")),
        *((origin, "stream_sac") for origin in ("sac", "stream_sac")),
        ("stream_dac", "stream_dac"),
    ],
)
def test_the_loop_begins_with_the_runs_policy(
    origin: str, algorithm: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    given = words(runs[origin], tmp_path, LOADED, "algorithm.std_scale=1", algorithm=algorithm)
    config = inherit(compose(given))
    loop = make_loop(config)
    policy, source = load_policy_and_config(runs[origin])
    assert isinstance(loop, StreamingLoop) and loop.algorithm.learner is not None
    assert config.policy == source.policy and config.policy_class is source.policy_class
    for shown in loop.algorithm.policies():
        # the normaliser has seen one more observation than its 500 or 1000
        np.testing.assert_allclose(
            shown.act(loop.obs, deterministic=True), policy.act(loop.obs, deterministic=True), atol=5e-3
        )
        for name, tensor in policy.named_parameters():
            torch.testing.assert_close(shown.get_parameter(name), tensor, rtol=1e-5, atol=1e-6)
        option = getattr(policy, "option", None)  # the floor of deviations, or a deterministic policy's noise
        assert option is None or getattr(shown, option) == getattr(policy, option) != 0.0


def test_noise_that_is_given_replaces_the_policys(runs: dict[str, Path], tmp_path: Path) -> None:
    noise = []
    for more in ([], ["algorithm.noise_std=0.2"], ["algorithm.sweep={noise_std: [0.1, 0.4]}"]):
        given = words(runs["stream_dac"], tmp_path, "algorithm.std_scale=1", *more, algorithm="stream_dac")
        noise.append(make_loop(inherit(compose(given))).algorithm.learner.noise_std.tolist())
    assert noise == [[0.03, 0.03], [0.2, 0.2], [0.1, 0.4]]


def test_a_critics_scale_counts_as_a_bounded_number_of_samples(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for most, counted in ((10_000, 1024), (100, 100)):
        monkeypatch.setattr("robotrl.training.fine_tuning._MOST_SAMPLES", most)
        loop = make_loop(inherit(compose(words(runs["ppo"], tmp_path, "algorithm.keep_critic=true"))))
        assert (loop.algorithm.learner.streams.reward_statistics[:, 1] == counted).all()


def test_ppos_critic_values_states_as_it_did(runs: dict[str, Path], tmp_path: Path) -> None:
    loop = make_loop(inherit(compose(words(runs["ppo"], tmp_path, "algorithm.keep_critic=true"))))
    origin = make_loop(RunFolder(runs["ppo"]).config(), resumed=True)
    origin.load_state_dict(checkpoint.load(RunFolder(runs["ppo"]).latest_checkpoint()))
    learner = loop.algorithm.learner
    with torch.no_grad():
        expected = origin.algorithm.value({"policy": loop.obs["policy"]})
    np.testing.assert_allclose(learner.values(loop.obs["policy"].numpy()), expected, rtol=2e-3)


@torch.no_grad()
def test_sacs_critic_values_actions_as_it_did(runs: dict[str, Path], tmp_path: Path) -> None:
    given = words(runs["sac"], tmp_path, "algorithm.keep_critic=true", algorithm="stream_sac")
    loop = make_loop(inherit(compose(given)))
    origin = make_loop(RunFolder(runs["sac"]).config(), resumed=True)
    origin.load_state_dict(checkpoint.load(RunFolder(runs["sac"]).latest_checkpoint()))
    obs, action = loop.obs["policy"], torch.tensor([[0.3], [-0.8]])
    features = torch.cat([origin.algorithm.critic_normalizer(obs), action], dim=-1)
    values = loop.algorithm.learner.values(obs.numpy(), action.numpy())
    expected = origin.algorithm.critic.online.net(features)[0, :, 0]
    np.testing.assert_allclose(values, expected, rtol=5e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["stream_ac", "stream_sac", "stream_dac"])
def test_a_streams_critic_values_as_it_did(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(runs[name], tmp_path / "origin"))
    state = checkpoint.load(run.latest_checkpoint())
    state["algorithm"]["stream"] = 2  # which of them did best is chance
    run.save_checkpoint(state["env_steps"] + 1, state, 2)
    more = ["algorithm.keep_critic=true", "algorithm.std_scale=1", "algorithm.hidden=[3]"]
    config = inherit(compose(words(run.path, tmp_path, *more, algorithm=name)))
    assert config.algorithm.hidden == [16]
    loop = make_loop(config)
    origin = make_loop(run.config(), resumed=True)
    origin.load_state_dict(state)
    learner, theirs, shown = loop.algorithm.learner, origin.algorithm.learner, 2
    # the first observation of the new run entered the normaliser of policy and critic
    learner.streams.obs_statistics[:] = theirs.streams.obs_statistics[shown]
    statistics = [streams.streams.reward_statistics for streams in (learner, theirs)]
    np.testing.assert_allclose(statistics[0][:, 1:], [statistics[1][shown, 1:]] * 2, rtol=1e-12)
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(4, theirs.obs_dim)), rng.uniform(-1, 1, (4, 1))
    given = [obs] if name == "stream_ac" else [obs, action]
    expected = theirs.values(*(np.tile(values[shown], (4, 1)) for values in given))[shown]
    values = learner.values(*(np.tile(values[shown], (2, 1)) for values in given))
    np.testing.assert_allclose(values, [expected] * 2, rtol=1e-5)


def test_the_discount_of_a_swept_stream_is_its_own(runs: dict[str, Path], tmp_path: Path) -> None:
    swept = overrides("stream_ac", tmp_path / "swept", "algorithm.sweep={gamma: [0.9, 0.91, 0.92, 0.93]}")
    run = train(compose([*swept, "total_steps=2000"]), show_progress=False)
    own = 0.9 + json.loads((run / "streams.json").read_text())["shown"] / 100
    keeps = words(run, tmp_path / "new", "algorithm.keep_critic=true")
    assert inherit(compose([*keeps, f"algorithm.gamma={own}"])).algorithm.hidden == [16]
    with pytest.raises(
        UsageError, match=rf"has gamma={own}, the streams have 0.5: set algorithm.gamma={own}"
    ):
        inherit(compose([*keeps, "algorithm.gamma=0.5"]))


def test_a_critic_of_unscaled_rewards_has_no_scale(tmp_path: Path) -> None:
    unscaled = overrides("stream_ac", tmp_path / "unscaled", "algorithm.scale_reward=false")
    run = train(compose([*unscaled, "total_steps=2000"]), show_progress=False)
    keeps = words(run, tmp_path / "new", "algorithm.keep_critic=true")
    with pytest.raises(UsageError, match=r"were not scaled: set algorithm\.scale_reward=false"):
        inherit(compose(keeps))
    learner = make_loop(inherit(compose([*keeps, "algorithm.scale_reward=false"]))).algorithm.learner
    origin = checkpoint.load(RunFolder(run).latest_checkpoint())["algorithm"]
    assert learner.reward_scale().tolist() == [1.0, 1.0]
    row = origin["learner"]["memory"][origin["stream"]].numpy()
    critic = learner.parameters("critic")[0]
    assert any(np.array_equal(critic, row[i : i + len(critic)]) for i in range(len(row) - len(critic) + 1))


@pytest.mark.parametrize(
    ("origin", "algorithm", "keep_critic"),
    [
        ("ppo", "stream_ac", True),
        ("sac", "stream_ac", False),
        ("stream_ac", "stream_ac", False),
        ("sac", "stream_sac", True),
        ("stream_sac", "stream_sac", False),
        ("stream_dac", "stream_dac", False),
        ("stream_ac", "stream_ac", True),
    ],
)
def test_a_run_goes_on_is_exported_and_resumes_without_its_origin(
    origin: str, algorithm: str, keep_critic: bool, runs: dict[str, Path], tmp_path: Path
) -> None:
    source = shutil.copytree(runs[origin], tmp_path / "origin")
    given = words(source, tmp_path / "runs", LOADED, "total_steps=4000", algorithm=algorithm)
    given += [f"algorithm.keep_critic={keep_critic}", "algorithm.update_budget_s=1"]
    if algorithm == "stream_dac":
        given.append("algorithm.std_scale=1")
    whole = train(compose(given), show_progress=False)
    assert all(check.passed for check in verify_bundle(whole / "bundle", load_policy_and_config(whole)[0]))
    header = (whole / "metrics.csv").read_text().splitlines()[0]
    assert "stream/update_max_s" in header and "stream/updates_over_budget" in header

    half = train(compose([*given, "total_steps=2000", "export=false"]), show_progress=False)
    config = (half / "config.yaml").read_text()
    (half / "config.yaml").write_text(config.replace("total_steps: 2000", "total_steps: 4000"))
    shutil.rmtree(half / "evaluation")
    shutil.rmtree(source)
    resume(half, show_progress=False)
    learned = [checkpoint.load(RunFolder(run).latest_checkpoint())["algorithm"] for run in (whole, half)]
    for name, array in learned[0]["learner"].items():
        assert torch.equal(array, learned[1]["learner"][name]), name


@pytest.mark.parametrize(
    ("origin", "more", "message"),
    [
        ("nowhere", [], "run folder nowhere does not exist"),
        ("beta", [], "goes on from one of .*, got BetaPolicy"),
        (
            "pendulum",
            [],
            "does not fit task cartpole_balance as it is set: an action every 0.02 s, not every 0.01 s",
        ),
        ("ppo", ["task=acrobot_swingup"], "does not fit task acrobot_swingup as it is set: "),
        ("ppo", ["policy=gaussian"], "leave policy= out"),
        ("ppo", ["policy=softplus_gaussian"], "leave policy= out"),  # the default, but not what it would be
        ("sac", ["algorithm.keep_critic=true"], "keep_critic needs a run of ppo or stream_ac whose"),
        ("alone", ["algorithm.keep_critic=true"], "had one environment: set algorithm.keep_critic=false"),
        (
            "ppo",
            ["algorithm.keep_critic=true", "algorithm.gamma=0.9"],
            "has gamma=0.99, the streams have 0.9: set algorithm.gamma=0.99",
        ),
        (
            "ppo",
            ["algorithm.keep_critic=true", "algorithm.sweep={gamma: [0.99, 0.95]}"],
            "the streams have 0.95, 0.99: set",
        ),
        ("stream_sac", ["algorithm.keep_critic=true"], "keep_critic needs a run of ppo or stream_ac whose"),
        ("stream_dac", ["algorithm=stream_dac"], "a deterministic policy has noise_std instead"),
        ("ppo", ["algorithm=stream_sac"], "goes on from one of Squashed.*, got GaussianPolicy"),
        ("deep", [], "the actor has 2 and the critic has 1"),
    ],
)
def test_what_cannot_go_on_is_one_line(
    origin: str, more: list[str], message: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        train(compose(words(runs.get(origin, Path(origin)), tmp_path, *more)), show_progress=False)
    assert not list(tmp_path.rglob("config.yaml"))


def test_options_of_the_origin_need_one() -> None:
    with pytest.raises(UsageError, match=r"set algorithm\.init_from=RUN"):
        make_loop(compose(["recipe=stream_adapt"]))


def test_streams_whose_actor_rests_all_the_time_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    given = words(runs["ppo"], tmp_path, "total_steps=80", "algorithm.actor_rest_steps=40")
    with pytest.raises(UsageError, match="not below the 40 steps of each stream"):
        train(compose(given), show_progress=False)


def test_a_composite_policy_is_no_streams(runs: dict[str, Path], tmp_path: Path) -> None:
    residual = [
        *TASK,
        "algorithm=residual",
        f"algorithm.init_from={runs['sac']}",
        "algorithm.learning_starts=64",
    ]
    small = ["algorithm.batch_size=16", "algorithm.hidden=[8]", "algorithm.residual_hidden=[8]", "num_envs=2"]
    more = ["total_steps=100", "eval_episodes=2", "export=false", f"runs_dir={tmp_path}"]
    run = train(compose([*residual, *small, *more]), show_progress=False)
    with pytest.raises(UsageError, match=r"a stream goes on from one of .*, got ResidualPolicy"):
        train(compose(words(run, tmp_path)), show_progress=False)


def test_a_run_with_chunks_is_refused_by_advising_another(tmp_path: Path) -> None:
    chunked = compose(words(Path("unused"), tmp_path, "policy=gaussian", "policy.horizon=3"))
    with pytest.raises(UsageError, match="decides 3 at once: go on from one with horizon 1, such as another"):
        make_loop(chunked)
