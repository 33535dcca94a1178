"""The Stable-Baselines3 baselines: SB3's own learning, our policy with exactly its weights, a normal run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robotrl.compose import compose
from robotrl.core.config import TrainConfig
from robotrl.core.errors import UsageError
from robotrl.data.replay import Transitions
from robotrl.envs.sb3 import Sb3VecEnv
from robotrl.envs.vec_env import VecEnv
from robotrl.networks.mlp import MLP
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
    monkeypatch.setattr("robotrl.training.sb3.STEPS_PER_ITERATION", 200)


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
    steps = 2 * second.algorithm.steps_per_iteration(4, 1_000_000)
    second.algorithm.model.learn(steps)
    for name, weights in second.algorithm.model.policy.state_dict().items():
        assert torch.equal(first.algorithm.model.policy.state_dict()[name], weights), name


def test_a_training_ends_where_it_was_asked_to(tmp_path: Path) -> None:
    words = ["total_steps=2301", "algorithm.learning_starts=2200", "eval_episodes=1", "export=false"]
    run = train(config("sb3_td3", *words, f"runs_dir={tmp_path}"), show_progress=False)
    assert read_metrics(run / "metrics.csv")[-1]["env_steps"] == 2304  # whole steps of 4 environments


def test_a_temperature_that_is_learned_starts_above_0() -> None:
    with pytest.raises(UsageError, match="ent_coef must start above 0 where it is learned, got 'auto_0'"):
        config("sb3_sac", "algorithm.ent_coef=auto_0")


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
        (["algorithm.learning_rate=inf"], "algorithm: learning_rate must be finite, got inf"),
        (["algorithm.vf_coef=-1"], "algorithm: vf_coef must be at least 0, got -1.0"),
        (["algorithm.critic_hidden=[8,0]"], "algorithm: critic_hidden: layer widths must be at least 1"),
        (["algorithm.num_steps=10"], r"unknown key 'algorithm.num_steps' \(did you mean 'n_steps'\?\)"),
    ],
)
def test_what_sb3_has_not_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sb3_loop("sb3_ppo", *overrides)


@pytest.mark.parametrize(
    ("algorithm", "total_steps", "message"),
    [
        ("sb3_ppo", 0, "set total_steps above 0, got 0"),
        ("sb3_sac", 100, "learning_starts=100 is not below total_steps=100"),
    ],
)
def test_a_training_that_would_learn_nothing_is_refused(
    algorithm: str, total_steps: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        sb3_loop(
            algorithm, f"total_steps={total_steps}", *["algorithm.learning_starts=100"] * (total_steps > 0)
        )


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


# What "identical settings" in scripts/bench_learn.py means: from the same weights and data, one update of
# ours moves the networks to where SB3's does. Its overrides are the ones used here.

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))


def identical_loop(algorithm: str, *overrides: str) -> Any:
    from bench_learn import IDENTICAL

    words = [f"algorithm={algorithm}", "task=pendulum_swingup", "task.episode_length_s=1", "torch_threads=1"]
    return make_loop(compose([*words, *IDENTICAL[algorithm]["ours"]["overrides"], *overrides]))


def linears(*modules: nn.Module) -> list[nn.Linear]:
    return [part for module in modules for part in module.modules() if isinstance(part, nn.Linear)]


def weights_of(net: MLP, member: int | None = None) -> list[torch.Tensor]:
    """Weight (out, in) and bias (out,) of each layer, one after the other."""
    parts = [part.detach() if member is None else part.detach()[member] for part in net.split(net.flat)]
    return [part[0] if part.shape[0] == 1 and i % 2 else part.t() for i, part in enumerate(parts)]


def put(layers: list[nn.Linear], weights: list[torch.Tensor]) -> None:
    for layer, weight, bias in zip(layers, weights[0::2], weights[1::2], strict=True):
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(bias)


def distance(layers: list[nn.Linear], weights: list[torch.Tensor]) -> torch.Tensor:
    """Absolute difference of every parameter."""
    theirs = [parameter.detach() for layer in layers for parameter in (layer.weight, layer.bias)]
    return torch.cat([(a - b).abs().flatten() for a, b in zip(theirs, weights, strict=True)])


def test_an_update_of_our_ppo_is_one_of_sb3s() -> None:
    import stable_baselines3

    # the whole rollout is one minibatch, so that the order of the rows does not matter
    loop = identical_loop("ppo", "algorithm.num_steps=128", "algorithm.minibatch_size=1024")
    ours = loop.algorithm
    task_env = Sb3VecEnv(VecEnv(loop.env.task, 8))
    theirs = stable_baselines3.PPO("MlpPolicy", task_env, n_steps=128, batch_size=1024, device="cpu")
    net = theirs.policy
    actor = linears(net.mlp_extractor.policy_net, net.action_net)
    critic = linears(net.mlp_extractor.value_net, net.value_net)
    put(actor, weights_of(ours.policy.net))
    put(critic, weights_of(ours.critic))
    start = weights_of(ours.policy.net)[0].clone()

    obs, first = loop.obs, np.ones(8, dtype=bool)
    for _ in range(128):
        action, log_prob = ours.sample(obs)
        step = loop.env.step(ours.policy.to_bounds(action, obs))
        loop.buffer.add(obs, action, log_prob, step)
        with torch.no_grad():
            value, their_log_prob, _ = net.evaluate_actions(obs["policy"], action)
            # as SB3's collect_rollouts treats the end of time
            after = net.predict_values(step.final_obs["policy"]).flatten()
        reward = (step.reward + 0.99 * after * step.truncated).numpy()
        theirs.rollout_buffer.add(
            obs["policy"].numpy(), action.numpy(), reward, first, value.flatten(), their_log_prob
        )
        obs, first = step.obs, step.done.numpy()
    assert loop.buffer.truncated.sum() >= 8
    with torch.no_grad():
        theirs.rollout_buffer.compute_returns_and_advantage(net.predict_values(obs["policy"]), first)
    theirs._setup_learn(1)
    theirs.train()
    ours.update(loop.buffer.finish(obs))
    assert (weights_of(ours.policy.net)[0] - start).abs().max() > 1e-3  # ten steps of 3e-4
    assert distance(actor, weights_of(ours.policy.net)).max() < 5e-6
    assert distance(critic, weights_of(ours.critic)).max() < 5e-6
    assert (net.log_std - ours.policy.log_std).abs().max() < 5e-6


def test_an_update_of_our_sac_is_one_of_sb3s(monkeypatch: pytest.MonkeyPatch) -> None:
    import stable_baselines3
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    ours = identical_loop("sac", "algorithm.replay_size=1000").algorithm
    task_env = Sb3VecEnv(make_loop(config("sb3_sac", "task=pendulum_swingup")).env)
    theirs = stable_baselines3.SAC("MlpPolicy", task_env, buffer_size=1000, device="cpu")
    body = weights_of(ours.policy.net)
    start = body[0].clone()
    dim = ours.specs.action_dim
    put(linears(theirs.actor.latent_pi), body[:4])
    put(linears(theirs.actor.mu), [part[:dim] for part in body[4:]])
    put(linears(theirs.actor.log_std), [part[dim:] for part in body[4:]])
    for member, q_network in enumerate(theirs.critic.q_networks):
        put(linears(q_network), weights_of(ours.critic.online.net, member))
    theirs.critic_target.load_state_dict(theirs.critic.state_dict())

    rng = torch.Generator().manual_seed(5)
    obs, next_obs = torch.randn(2, 256, ours.specs.obs_dim("policy"), generator=rng)
    action = torch.rand(256, dim, generator=rng) * 2 - 1
    reward, terminated = torch.randn(256, generator=rng), (torch.rand(256, generator=rng) < 0.1).float()
    # the same noise in both, which draw it in different order
    updates = 5
    now, after = torch.randn(2, updates, 256, dim, generator=rng)
    for_ours = iter([noise for pair in zip(after, now, strict=True) for noise in pair])
    for_theirs = iter([noise for pair in zip(now, after, strict=True) for noise in pair])
    monkeypatch.setattr("robotrl.policies.distributions._normal", lambda like, rng: next(for_ours))
    monkeypatch.setattr(
        torch.distributions.Normal,
        "rsample",
        lambda self, sample_shape=(): self.loc + self.scale * next(for_theirs),
    )
    samples = ReplayBufferSamples(obs, action, next_obs, terminated[:, None], reward[:, None])
    monkeypatch.setattr(theirs.replay_buffer, "sample", lambda *_, **__: samples)
    discount = ours.config.gamma * (1 - terminated)
    batch = Transitions({"policy": obs}, action, reward, discount, {"policy": next_obs}, torch.ones(256, 1))
    for _ in range(updates):
        ours.update(batch)
    theirs._setup_learn(1)
    theirs.train(updates, 256)

    body = weights_of(ours.policy.net)
    assert (body[0] - start).abs().max() > 1e-3
    # SB3 halves the critics' loss and adds 1e-6 in the logarithm of the squashing. Adam makes that visible
    # in the few weights whose gradient is near its eps (up to 2e-4), so the mean is what is compared.
    pairs = [
        (theirs.actor.latent_pi, body[:4]),
        (theirs.actor.mu, [part[:dim] for part in body[4:]]),
        (theirs.actor.log_std, [part[dim:] for part in body[4:]]),
        *((theirs.critic.q_networks[i], weights_of(ours.critic.online.net, i)) for i in range(2)),
        *((theirs.critic_target.q_networks[i], weights_of(ours.critic.target.net, i)) for i in range(2)),
    ]
    for their_part, weights in pairs:
        difference = distance(linears(their_part), weights)
        assert difference.mean() < 1e-6
    assert theirs.log_ent_coef.item() == pytest.approx(ours.temperature.log_alpha.item(), abs=1e-7)
    assert ours.temperature.log_alpha.item() == pytest.approx(-updates * 3e-4, rel=0.01)
