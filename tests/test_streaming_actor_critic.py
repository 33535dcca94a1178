"""The compiled stream AC(lambda) against plain torch with autograd, in float64."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from streaming_common import Walk, close

from robotrl.algorithms.streaming.actor_critic import Actor, StreamAC
from robotrl.algorithms.streaming.compiled import fill_normal, uniform, uniform_index
from robotrl.algorithms.streaming.config import Preset, StreamACConfig
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.reference import ReferenceAC
from robotrl.algorithms.streaming.rules.codes import INTENTIONAL_LOGITS, Rule
from robotrl.algorithms.streaming.state import DELTA, NUM_RULE_COLUMNS
from robotrl.algorithms.streaming.units import Unit
from robotrl.algorithms.streaming.update import begin_update
from robotrl.core.errors import UsageError

OBS, ACTIONS, STREAMS = 5, 3, 2
SWEEP = {"gamma": [0.99, 0.9], "trace_lambda": [0.8, 0.0], "entropy_coef": [0.01, 0.1]}


def learner(config: StreamACConfig, kind: Actor) -> StreamAC:
    discrete = kind.head is Head.CATEGORICAL
    stream_ac = StreamAC(
        OBS, ACTIONS, STREAMS, config, 3, discrete, sweep=SWEEP, dtype=np.float64, actor=kind
    )
    # biases and constants away from 0, where all kinds of units would be alike
    for head in stream_ac.heads:
        for i in range(STREAMS):
            for matrix in stream_ac.layers(head, i):
                matrix[:, -1] += 0.3 * np.random.default_rng(i).normal(size=len(matrix))
    return stream_ac


def references(stream_ac: StreamAC, config: StreamACConfig) -> list[ReferenceAC]:
    made = []
    for i in range(STREAMS):
        own = {name: values[i] for name, values in SWEEP.items()}
        networks = [
            [torch.from_numpy(w.copy()) for w in stream_ac.layers(head, i)] for head in stream_ac.heads
        ]
        made.append(ReferenceAC(StreamACConfig(**vars(config) | own), OBS, stream_ac.actor, *networks))
    return made


def draw(stream_ac: StreamAC, i: int, reference: ReferenceAC, state: np.ndarray) -> torch.Tensor:
    """What a stream draws at the reference's state from a generator in that state, which moves on."""
    policy = reference.policy(reference.actor)
    if isinstance(policy, torch.distributions.Categorical):
        bounds = torch.cumsum(policy.probs, 0)
        return torch.searchsorted(bounds, torch.tensor(uniform(state), dtype=torch.float64))
    noise = np.zeros(ACTIONS)
    fill_normal(state, noise)
    return policy.mean + policy.stddev * torch.from_numpy(noise)


def check(config: StreamACConfig, kind: Actor, steps: int, only: int = STREAMS, every: int = 1) -> None:
    """Compare the first streams with the reference, after every so many of the steps."""
    stream_ac = learner(config, kind)
    made = references(stream_ac, config)[:only]
    discrete = kind.head is Head.CATEGORICAL
    walk = Walk(STREAMS, OBS)
    stream_ac.start(walk.obs)
    for i, reference in enumerate(made):
        reference.start(walk.obs[i])
    for t in range(1, steps + 1):
        action, random = stream_ac.act(), stream_ac.streams.random.copy()
        step = walk.step()
        stream_ac.update(*step)
        for i, reference in enumerate(made):
            logit = uniform_index(random[i], ACTIONS) if reference.moves_logits else None
            taken = int(action[i, 0]) if discrete else action[i]
            reference.update(taken, *(float(x[i]) for x in step[:3]), step[3][i], step[4][i], logit)
            if t % every:
                continue
            for head, rule in (("actor", reference.actor_rule), ("critic", reference.critic_rule)):
                close(stream_ac.layers(head, i), rule.layers)
                close(stream_ac.layers(head, i, traces=True), rule.trace)
            close([stream_ac.streams.action[i]], [draw(stream_ac, i, reference, random[i]).reshape(-1)])


KINDS = {
    "softplus": Actor([16, 12], Head.SOFTPLUS),
    "s2ac": Actor([16, 12], Head.SQUASHED_SOFTPLUS),
    "categorical": Actor([16, 12], Head.CATEGORICAL),
    "ppo": Actor([16, 12], Head.CONSTANT, Unit.ELU, obs_clip=1.0),
    "sac": Actor([16, 12], Head.SQUASHED, Unit.RELU, log_std_bounds=(-0.5, 0.3), obs_clip=1.5),
    "tanh": Actor([9, 20], Head.CONSTANT, Unit.TANH),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.value)
def test_every_rule_is_the_formula(rule: Rule, kind: Actor) -> None:
    steps = 250 if kind.unit is Unit.LAYER_NORM else 80
    check(StreamACConfig(rule=rule, hidden=[16, 12], sparsity=0.5), kind, steps)


@pytest.mark.parametrize("unit", Unit, ids=lambda unit: unit.value)
def test_an_actor_that_rests_leaves_the_critic_to_learn(unit: Unit) -> None:
    config = StreamACConfig(hidden=[8, 6], sparsity=0.5, critic_unit=unit, actor_rest_steps=30)
    stream_ac = learner(config, KINDS["ppo"])
    walk, before = Walk(STREAMS, OBS), stream_ac.parameters("actor").copy()
    stream_ac.start(walk.obs)
    for _ in range(30):
        stream_ac.update(*walk.step())
    assert (stream_ac.parameters("actor") == before).all() and (stream_ac.traces("actor") == 0).all()
    check(config, KINDS["ppo"], steps=120)


@pytest.mark.parametrize("kind", ["softplus", "categorical"])
@pytest.mark.parametrize("rule", [Rule.OBGD, Rule.INTENTIONAL], ids=lambda rule: rule.value)
def test_reference_preset_is_as_released(rule: Rule, kind: str) -> None:
    config = StreamACConfig(
        preset=Preset.REFERENCE, rule=rule, hidden=[16, 12], sparsity=0.5, episode_steps=40
    )
    assert config.std_floor == 0.0
    check(config, KINDS[kind], steps=250)


@pytest.mark.parametrize(
    ("rule", "head"),
    [
        (Rule.OBGD, Head.SOFTPLUS),
        (Rule.ADAPTIVE_OBGD, Head.CATEGORICAL),
        (Rule.INTENTIONAL, Head.SQUASHED_SOFTPLUS),
        (Rule.INTENTIONAL, Head.CATEGORICAL),
        (Rule.INTENTIONAL, Head.CONSTANT),
        (Rule.SGD, Head.SQUASHED),
        (Rule.ADAM, Head.SOFTPLUS),
    ],
    ids=lambda code: code.value,
)
def test_it_stays_exact_over_thousands_of_steps(rule: Rule, head: Head) -> None:
    """Every rule and every head; each with each goes fewer steps above."""
    check(StreamACConfig(rule=rule, hidden=[8]), Actor([8], head), steps=2000, only=1, every=50)


@pytest.mark.parametrize(
    ("discrete", "head", "words"),
    [
        (True, Head.SOFTPLUS, "discrete=True needs an actor that is categorical, got softplus"),
        (False, Head.CATEGORICAL, "needs an actor that is softplus or constant or .*, got categorical"),
        (
            False,
            Head.DETERMINISTIC,
            "discrete=False needs an actor that is .*, got deterministic",
        ),
    ],
)
def test_an_actor_of_another_form_is_refused(discrete: bool, head: Head, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        StreamAC(OBS, ACTIONS, discrete=discrete, actor=Actor([8], head))


@pytest.mark.parametrize(("rule", "moved"), [(INTENTIONAL_LOGITS, 20.0), (Rule.INTENTIONAL.code, 379.65)])
def test_a_failure_after_long_success_moves_logits_by_a_bounded_error(rule: int, moved: float) -> None:
    state = np.zeros(NUM_RULE_COLUMNS)
    for _ in range(2000):
        begin_update(rule, 0.001, 0.792, True, state)
    begin_update(rule, -1.0, 0.792, True, state)
    # with d = 0.9998 the root mean square is r = 0.02465, and 20 r = 0.493 of the 1 are counted; the usual
    # error, by which they are divided, is (0.001 (1 - d^2000) d + (1 - d) 20 r) / (1 - d^2001) = 0.001298
    assert state[DELTA] == pytest.approx(-moved, abs=0.1)


def test_categorical_policy_keeps_what_it_learned() -> None:
    envs = [gymnasium.make("CartPole-v1") for _ in range(4)]
    stream_ac = StreamAC(4, 2, 4, StreamACConfig(hidden=[32, 32]), discrete=True, dtype=np.float64)
    obs = np.array([env.reset(seed=i)[0] for i, env in enumerate(envs)])
    lengths: list[list[int]] = [[0] for _ in envs]
    stream_ac.start(obs)
    for _ in range(15_000):
        steps = [env.step(int(a)) for env, a in zip(envs, stream_ac.act()[:, 0], strict=True)]
        final, reward, terminated, truncated = (np.array([s[k] for s in steps]) for k in range(4))
        obs = final.copy()
        for i in (terminated | truncated).nonzero()[0]:
            obs[i] = envs[i].reset()[0]
            lengths[i].append(0)
        for episodes in lengths:
            episodes[-1] += 1
        stream_ac.update(reward, terminated, truncated, obs, final)
    assert min(np.mean(episodes[-6:-1]) for episodes in lengths) > 200
