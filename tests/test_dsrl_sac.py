"""DSRL-SAC: its update against float64, what replay holds against what was executed, whole runs."""

from __future__ import annotations

import copy
import json
import signal

import numpy as np
import onnxruntime
import pytest
import torch
from test_generative_rl import flow, gaussian, make
from test_off_policy import random_batch, rng
from test_steering import reference_noise, value
from test_training import DYING, flat_tensors, start

from robotrl.algorithms.off_policy.dsrl import DSRL, DSRLConfig
from robotrl.algorithms.off_policy.dsrl_sac import DSRLSAC
from robotrl.algorithms.off_policy.steering import SteeringConfig
from robotrl.compose import compose, compose_task
from robotrl.core.errors import UsageError
from robotrl.data.replay import Replay
from robotrl.export.verify import verify_bundle
from robotrl.training.collect import CollectOptions, collect
from robotrl.training.pretrained import inherit_policy
from robotrl.training.restore import load_policy_and_config, load_trained
from robotrl.training.run_folder import RunFolder
from robotrl.training.train import make_loop, resume, train

SMALL = {"hidden": [8], "noise_hidden": [8], "learning_rate": 1e-2, "tau": 0.1}


def test_an_update_equals_a_float64_reference():
    config = SteeringConfig(**SMALL, noise_magnitude=1.2, initial_alpha=0.3, num_critics=3)
    ours = make(DSRLSAC, flow(), config)
    actor = copy.deepcopy(ours.policy.actor).double()
    q = copy.deepcopy(ours.critic.online.net).requires_grad_(True).double()
    q_target = copy.deepcopy(q)
    batch, draws = random_batch(), rng()
    draws.set_state(ours.rng.get_state())
    ours.update(batch)

    now, after = batch.obs["policy"], batch.next_obs["policy"]
    with torch.no_grad():
        w, log_prob = reference_noise(actor, after, draws)
        y = batch.reward + batch.discount * (value(q_target, after, w).amin(0) - 0.3 * log_prob)
    adam = torch.optim.Adam(q.parameters(), lr=1e-2)
    (value(q, now, batch.action) - y).square().mean(1).sum().backward()
    adam.step()
    adam = torch.optim.Adam(actor.parameters(), lr=1e-2)
    w, log_prob = reference_noise(actor, now, draws)
    (0.3 * log_prob - value(q, now, w).amin(0)).mean().backward()
    adam.step()
    for mine, theirs in ((ours.critic.online.net, q), (ours.policy.actor.net, actor.net)):
        torch.testing.assert_close(mine.flat.double(), theirs.flat, rtol=0, atol=5e-5)
    q_target.flat.data.lerp_(q.flat.data, 0.1)
    torch.testing.assert_close(ours.critic.target.net.flat.double(), q_target.flat.data, rtol=0, atol=5e-5)
    # Adam's first step is the learning rate, against the sign of (entropy - target)
    moved = ours.temperature.log_alpha.exp().log() - torch.tensor(0.3).log()
    assert moved.item() == pytest.approx(0.01 * float(log_prob.detach().mean().sign()), abs=1e-6)


@pytest.mark.parametrize("base", [flow, gaussian])
def test_the_first_noises_are_the_bases_own_and_the_later_ones_the_actors(base):
    config = SteeringConfig(**SMALL, noise_magnitude=1.2)
    algorithm = make(DSRLSAC, base(), config)
    obs = {"policy": torch.randn(4000, 3, generator=rng(1))}
    draws = rng()
    draws.set_state(algorithm.rng.get_state())
    action, noise = algorithm.decide(obs)
    drawn = torch.empty(4000, 2).normal_(generator=draws)
    torch.testing.assert_close(1.2 * noise, drawn)
    torch.testing.assert_close(action, algorithm.policy.base.decode(obs["policy"], drawn))
    algorithm.update(random_batch())
    with torch.no_grad():  # mean and log deviation are the last biases
        algorithm.policy.actor.net.flat.zero_()
        algorithm.policy.actor.net.flat[-4:] = torch.tensor([0.5, -2.0, -20.0, -20.0])
    action, noise = algorithm.decide(obs)
    torch.testing.assert_close(noise, torch.tensor([0.5, -2.0]).tanh().expand(4000, 2))
    torch.testing.assert_close(action, algorithm.policy.base.decode(obs["policy"], 1.2 * noise))


@pytest.fixture(scope="module")
def cloned(tmp_path_factory):
    """Runs of behaviour cloning by chunks of one and three steps, and the data they are of."""
    folder = tmp_path_factory.mktemp("cloned")
    data, _ = collect(
        CollectOptions("random", episodes=2, out=str(folder / "random-v0")),
        compose_task("pendulum_swingup", {"episode_length_s": 0.4}),
        "pendulum_swingup",
        show_progress=False,
    )
    words = ["task=pendulum_swingup", "algorithm=bc", "policy=flow", "policy.hidden=[8]", "policy.steps=2"]
    words += [f"data={data}", "total_steps=0", "algorithm.offline_updates=3", "eval_episodes=2"]
    words += ["task.episode_length_s=0.4", "export=false", f"runs_dir={folder}"]
    runs = {h: train(compose([*words, f"policy.horizon={h}"]), show_progress=False) for h in (1, 3)}
    return runs, data


# an episode of 25 control steps ends in the first step of a chunk of three
def words(cloned, horizon: int, runs) -> list[str]:
    tiny = ["task=pendulum_swingup", "task.episode_length_s=0.5", "num_envs=4", "eval_episodes=2", "seed=3"]
    learner = ["algorithm.hidden=[8]", "algorithm.noise_hidden=[8]", "algorithm.batch_size=8"]
    learner += ["algorithm.learning_starts=1", "algorithm.replay_ratio=0.05", "torch_threads=1"]
    origin = ["algorithm=dsrl_sac", f"algorithm.init_from={cloned[0][horizon]}", f"runs_dir={runs}"]
    return [*tiny, *learner, *origin]


@pytest.mark.parametrize("horizon", [1, 3])
def test_replay_holds_the_noise_of_what_was_executed(horizon, cloned, tmp_path):
    loop = make_loop(inherit_policy(compose([*words(cloned, horizon, tmp_path), "total_steps=4000"])))
    loop.algorithm.config.init_from = None  # as where a base was put there by hand
    loop.iterate()
    assert loop.algorithm.num_updates > 0 and loop.buffer.num_added == 2000
    noises = loop.buffer.sample(500, rng(1), horizon)
    actions = Replay.sample(loop.buffer, 500, rng(1), horizon)
    features = loop.algorithm.policy_features(noises.obs)
    decoded = loop.algorithm.decode(features, noises.action).view(500, horizon, -1)
    torch.testing.assert_close(decoded * noises.mask.unsqueeze(2), actions.action.view(500, horizon, -1))
    # the ages are staggered: first episodes end anywhere in a chunk, all others in its first step
    steps = noises.mask.sum(1)
    assert set(steps.tolist()) >= ({1} if horizon == 1 else {1, 3}) and (steps == 2).float().mean() < 0.02
    # every decision that is over, nine per episode of 25 steps
    assert loop.buffer.size == pytest.approx(2000 if horizon == 1 else 2000 * 9 / 25, abs=12)


def test_kill_and_resume_equals_the_uninterrupted_run(cloned, tmp_path):
    """Killed with chunks under way in all environments."""
    options = ["total_steps=4000", "export=false"]
    whole = RunFolder(train(compose([*words(cloned, 3, tmp_path / "a"), *options]), show_progress=False))
    arguments = [*words(cloned, 3, tmp_path / "b"), *options, "checkpoint_every_s=1e-6"]
    process = start(arguments, ("-c", DYING, "750"))
    assert process.communicate(timeout=120)[0] == "" and process.returncode == -signal.SIGKILL
    run = RunFolder(next((tmp_path / "b").rglob("config.yaml")).parent)
    assert load_trained(run.path).log_step == 2000
    resume(run.path, show_progress=False)
    expected, got = flat_tensors(whole.latest_checkpoint()), flat_tensors(run.latest_checkpoint())
    assert expected.keys() == got.keys() and "/buffer/fields/noise" in expected
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_a_run_leaves_a_verified_bundle_of_the_steered_policy(cloned, tmp_path):
    run = train(compose([*words(cloned, 3, tmp_path), "total_steps=2000"]), show_progress=False)
    assert all(check["passed"] for check in json.loads((run / "bundle" / "verification.json").read_text()))
    policy = load_policy_and_config(run)[0]
    assert all(check.passed for check in verify_bundle(run / "bundle", policy))
    before = load_policy_and_config(cloned[0][3])[0].state_dict()
    for name, values in policy.base.state_dict().items():
        assert torch.equal(values, before[name])
    # nothing is drawn: the mode of the noise decides; one actuator of +-1 N m
    session = onnxruntime.InferenceSession(run / "bundle" / "policy.onnx")
    flat = torch.randn(50, policy.obs_dim, generator=rng(1))
    (action,) = session.run(["action"], {"obs": flat.numpy()})
    features = policy.normalize(flat)
    mode = policy.actor.magnitude * policy.actor.net(features).chunk(2, -1)[0].tanh()
    assert np.abs(action - policy.base.decode(features, mode).detach().numpy()).max() < 1e-5


@pytest.mark.parametrize("word", ["data={data}", "algorithm.offline_updates=5"])
def test_data_have_no_noise_to_learn_from(word, cloned, tmp_path):
    given = word.format(data=cloned[1])
    message = r"^DSRLSAC learns from the noise .* leave data= and .* out or choose algorithm=dsrl$"
    with pytest.raises(UsageError, match=message):
        train(compose([*words(cloned, 1, tmp_path / "runs"), given]), show_progress=False)
    assert not (tmp_path / "runs").exists()


def test_both_forms_learn_a_noise_by_the_same_options():
    assert issubclass(DSRLConfig, SteeringConfig)
    with pytest.raises(ValueError, match="noise_magnitude must be above 0"):
        SteeringConfig(noise_magnitude=0.0)
    with pytest.raises(UsageError, match="DSRLSAC cannot start from a SampledGaussian"):
        make(DSRLSAC, flow(), SteeringConfig(**SMALL)).start_from(gaussian())
    with pytest.raises(UsageError, match="DSRL cannot start from a SampledGaussian"):
        make(DSRL, flow(), DSRLConfig(**SMALL)).start_from(gaussian())
