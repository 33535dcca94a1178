"""The Stable-Baselines3 baselines: SB3's own learning, our policy with exactly its weights, a normal run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from robotrl.compose import compose
from robotrl.core.config import TrainConfig
from robotrl.core.errors import UsageError
from robotrl.training.evaluation import evaluate, evaluate_run
from robotrl.training.metrics import read_metrics
from robotrl.training.restore import load_policy_and_config
from robotrl.training.sb3 import Sb3Loop
from robotrl.training.train import make_loop, resume, train

SHORT = {
    "sb3_ppo": ["num_envs=4", "algorithm.n_steps=50", "algorithm.n_epochs=2", "algorithm.batch_size=50"],
    "sb3_sac": [
        "num_envs=4",
        "algorithm.learning_starts=180",
        "algorithm.buffer_size=9000",
        "algorithm.gradient_steps=3",
    ],
    "sb3_td3": [
        "num_envs=4",
        "algorithm.learning_starts=180",
        "algorithm.buffer_size=9000",
        "algorithm.gradient_steps=2",
    ],
}


@pytest.fixture(autouse=True)
def short_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robotrl.training.sb3._MIN_STEPS_PER_ITERATION", 200)


def config(algorithm: str, *overrides: str) -> TrainConfig:
    common = [f"algorithm={algorithm}", "task=cartpole_swingup", "seed=3", "torch_threads=1"]
    return compose([*common, *SHORT[algorithm], *overrides])


def sb3_loop(algorithm: str, *overrides: str) -> Sb3Loop:
    loop = make_loop(config(algorithm, *overrides))
    assert isinstance(loop, Sb3Loop)
    return loop


@pytest.mark.parametrize("algorithm", SHORT)
def test_the_policy_acts_as_sb3_does(algorithm: str) -> None:
    loop = sb3_loop(algorithm)
    before = loop.algorithm.policy.net.flat.clone()
    metrics = loop.iterate()
    assert loop.env_steps == 200
    assert not torch.equal(loop.algorithm.policy.net.flat, before)  # it has learned something
    assert {"loss/policy", "loss/value", "policy/learning_rate"} <= metrics.keys()

    obs = torch.randn(200, loop.env.specs.obs_dim("policy"), generator=torch.Generator().manual_seed(0)) * 5
    with torch.no_grad():
        ours = loop.algorithm.policy.act({"policy": obs}, deterministic=True)
    theirs, _ = loop.algorithm.model.predict(obs.numpy(), deterministic=True)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6, rtol=0)
    assert ours.std() > 1e-4  # not all the same


def test_the_exploration_of_the_copied_policies_is_sb3s_too() -> None:
    obs = {"policy": torch.randn(50, 5, generator=torch.Generator().manual_seed(0))}
    ppo = sb3_loop("sb3_ppo", "policy.initial_std=0.5")
    ppo.iterate()
    theirs = ppo.algorithm.model.policy.get_distribution(obs["policy"]).distribution
    ours = ppo.algorithm.policy.distribution(obs)
    torch.testing.assert_close(ours.log_std.exp().expand_as(theirs.scale), theirs.scale)
    assert (theirs.scale - 0.5).abs().max() < 0.1

    sac = sb3_loop("sb3_sac")
    mean, log_std, _ = sac.algorithm.model.actor.get_action_dist_params(obs["policy"])
    squashed = sac.algorithm.policy.distribution(obs)
    torch.testing.assert_close(squashed.mean, mean)
    torch.testing.assert_close(squashed.log_std, log_std)


@pytest.mark.parametrize("algorithm", ["sb3_ppo", "sb3_sac"])
def test_iterations_add_up_to_one_call_of_sb3(algorithm: str) -> None:
    short = ["algorithm.train_freq=10"] if algorithm == "sb3_sac" else []
    first = sb3_loop(algorithm, *short)
    for _ in range(2):
        first.iterate()
    # SB3 draws from torch's global generator, which it seeds when it is built: one after the other
    second = sb3_loop(algorithm, *short)
    steps = 2 * second.algorithm.steps_per_iteration(4)
    second.algorithm.model.learn(steps)
    for name, weights in second.algorithm.model.policy.state_dict().items():
        assert torch.equal(first.algorithm.model.policy.state_dict()[name], weights), name


def test_the_defaults_are_sb3s() -> None:
    import inspect

    import stable_baselines3

    for name in ("PPO", "SAC", "TD3"):
        ours = vars(compose([f"algorithm=sb3_{name.lower()}", "task=pendulum_swingup"]).algorithm)
        theirs = inspect.signature(getattr(stable_baselines3, name)).parameters
        for key, value in ours.items():
            if key == "critic_hidden":
                continue
            if key == "target_entropy":
                assert value is None and theirs[key].default == "auto"
                continue
            assert value == theirs[key].default, f"{name}.{key}"


@pytest.mark.parametrize("algorithm", ["sb3_ppo", "sb3_sac", "sb3_td3"])
def test_the_default_networks_are_sb3s(algorithm: str) -> None:
    import stable_baselines3

    from robotrl.envs.sb3 import Sb3VecEnv

    model = sb3_loop(algorithm).algorithm.model
    original = getattr(stable_baselines3, algorithm[4:].upper())("MlpPolicy", Sb3VecEnv(model.env.env))
    shapes = {name: weights.shape for name, weights in original.policy.state_dict().items()}
    assert {name: weights.shape for name, weights in model.policy.state_dict().items()} == shapes
    assert str(model.policy) == str(original.policy)  # layers and activations


def test_a_run_is_a_run(tmp_path: Path) -> None:
    run = train(
        config(
            "sb3_ppo",
            "total_steps=4000",
            "eval_episodes=2",
            f"runs_dir={tmp_path}",
            "task.episode_length_s=2",
        ),
        show_progress=False,
    )
    rows = read_metrics(run / "metrics.csv")
    assert rows[-2]["env_steps"] == 4000
    returns = [row["episode/return"] for row in rows if "episode/return" in row]
    assert returns and all(0 < value <= 200 for value in returns)
    assert "eval/return" in rows[-1]
    assert (run / "bundle" / "policy.onnx").is_file()

    policy, loaded = load_policy_and_config(run)
    assert loaded.algorithm_class.__name__ == "Sb3PPO"
    again = evaluate(policy, loaded.task, 2, loaded.eval_seed)
    assert evaluate_run(run, 2, loaded.eval_seed)["mean"] == again.mean
    assert again.mean == pytest.approx(rows[-1]["eval/return"], rel=1e-5)
    with pytest.raises(UsageError, match="Sb3PPO cannot be resumed"):
        resume(run, show_progress=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy=gaussian"], "trains SB3's own network, not GaussianPolicy"),
        (["policy.normalize_obs=true"], "policy: normalize_obs must be False, SB3 has no other; got True"),
        (["policy.mean_gain=1"], "policy: mean_gain must be 0.01"),
        (["algorithm.batch_size=1"], "algorithm: batch_size must be at least 2, got 1"),
        (["algorithm.num_steps=10"], r"unknown key 'algorithm.num_steps' \(did you mean 'n_steps'\?\)"),
    ],
)
def test_what_sb3_has_not_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sb3_loop("sb3_ppo", *overrides)


def test_missing_sb3_is_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from robotrl.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["train", "task=pendulum_swingup", "algorithm=sb3_sac", f"runs_dir={tmp_path / 'runs'}"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "robotrl[sb3]"' in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
