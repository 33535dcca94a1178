"""Stream TD(lambda), Q(lambda) and SARSA(lambda), compiled, against plain torch with autograd, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from streaming_common import Walk, close

from robotrl.algorithms.streaming.compiled import uniform, zeta
from robotrl.algorithms.streaming.config import Preset, StreamQConfig, StreamTDConfig
from robotrl.algorithms.streaming.learner import StreamLearner
from robotrl.algorithms.streaming.network import layer_matrices
from robotrl.algorithms.streaming.q_learning import StreamQ
from robotrl.algorithms.streaming.reference import ReferenceTD, epsilon, epsilon_greedy, network
from robotrl.algorithms.streaming.rules.codes import Rule
from robotrl.algorithms.streaming.td import StreamTD, predict_series
from robotrl.core.errors import UsageError

OBS, ACTIONS, STREAMS = 4, 3, 2


def references(learner: StreamLearner) -> list[ReferenceTD]:
    layers = [layer_matrices(w, learner.sizes[0]) for w in learner.parameters("critic")]
    return [
        ReferenceTD(learner.config, OBS, [torch.from_numpy(w.copy()) for w in stream]) for stream in layers
    ]


def same(learner: StreamLearner, i: int, reference: ReferenceTD) -> None:
    sizes = learner.sizes[0]
    close(layer_matrices(learner.parameters("critic")[i], sizes), reference.critic)
    close(layer_matrices(learner.traces("critic")[i], sizes), reference.critic_rule.trace)


@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.value)
def test_td_is_the_formula(rule: Rule) -> None:
    config = StreamTDConfig(rule=rule, hidden=[12, 8], sparsity=0.5)
    learner = StreamTD(OBS, STREAMS, config, seed=1, dtype=np.float64)
    made, walk = references(learner), Walk(STREAMS, OBS)
    learner.start(walk.obs)
    for i, reference in enumerate(made):
        reference.start(walk.obs[i])
    for _ in range(200):
        step = walk.step()
        learner.update(*step)
        for i, reference in enumerate(made):
            reference.update(*(float(x[i]) for x in step[:3]), step[3][i], step[4][i])
            same(learner, i, reference)
            scale = float(reference.reward_statistics.std[0])
            predicted = network(reference.critic, reference.state) * scale
            close([learner.predictions()[i : i + 1]], [predicted])


@pytest.mark.parametrize("preset", Preset, ids=lambda preset: preset.value)
@pytest.mark.parametrize("on_policy", [False, True], ids=["q", "sarsa"])
@pytest.mark.parametrize(("rule", "exponent"), [(Rule.OBGD, None), (Rule.INTENTIONAL, 2.0), (Rule.ADAM, 1.3)])
def test_control_is_the_formula(rule: Rule, exponent: float | None, on_policy: bool, preset: Preset) -> None:
    config = StreamQConfig(
        rule=rule,
        hidden=[12, 8],
        sparsity=0.5,
        preset=preset,
        exploration_steps=150,
        epsilon_end=0.2,
        on_policy=on_policy,
        repeat_exponent=exponent,
    )
    learner = StreamQ(OBS, ACTIONS, STREAMS, config, seed=1, dtype=np.float64)
    made, walk = references(learner), Walk(STREAMS, OBS)
    random = learner.streams.random.copy()
    kept, chosen = [0] * STREAMS, [0] * STREAMS

    def choose(i: int, state: torch.Tensor, steps: int) -> int:
        if kept[i] > 0:
            kept[i] -= 1
            return chosen[i]
        q, probability = network(made[i].critic, state), epsilon(config, steps)
        first = uniform(random[i])
        if first <= probability and exponent:
            kept[i] = zeta(random[i], exponent) - 1
        second = uniform(random[i]) if first <= probability else 0.0
        chosen[i] = epsilon_greedy(q, probability, first, second)
        return chosen[i]

    learner.start(walk.obs)
    for i, reference in enumerate(made):
        reference.start(walk.obs[i])
    actions = [choose(i, reference.state, 0) for i, reference in enumerate(made)]
    for t in range(1, 251):
        assert learner.act()[:, 0].tolist() == actions
        step = walk.step()
        learner.update(*step)
        for i, reference in enumerate(made):
            transition = (*(float(x[i]) for x in step[:3]), step[3][i], step[4][i])
            if on_policy:
                # the next action is chosen before the update, at the true successor
                ahead = peek(reference, transition)
                next_action = choose(i, ahead, t)
                reference.update(*transition, actions[i], next_action)
                ended = bool(step[1][i] or step[2][i])
                kept[i] = 0 if ended else kept[i]
                if ended and preset is Preset.DEFAULT:
                    next_action = choose(i, reference.state, t)
                actions[i] = next_action
            else:
                greedy = int(network(reference.critic, reference.state).argmax()) == actions[i]
                reference.update(*transition, actions[i], None, greedy)
                kept[i] = 0 if step[1][i] or step[2][i] else kept[i]
                actions[i] = choose(i, reference.state, t)
            same(learner, i, reference)


def peek(reference: ReferenceTD, transition: tuple) -> torch.Tensor:
    """The successor's input as `update` will see it, without taking it in."""
    statistics, t = reference.obs_statistics, reference.t
    saved = (statistics.count, statistics.mean.copy(), statistics.p.copy())
    reference.t += 1
    ended = transition[1] or transition[2]
    state = reference.observe(transition[4] if ended else transition[3])
    reference.t = t
    statistics.count, statistics.mean, statistics.p = saved
    return state


def test_series_of_a_cycle_is_predicted() -> None:
    # a wheel of four states, the cumulant is 1 in one of them: V is known in closed form
    x = np.tile(np.eye(4), (3000, 1))
    gammas = np.array([0.0, 0.5, 0.9])
    predictions = predict_series(x, x[:, 0], StreamTDConfig(hidden=[16]), gamma=gammas)
    assert predictions.shape == (12_000, 3)
    wait = np.array([3, 2, 1, 0])  # steps from each state until the cumulant comes
    for k, gamma in enumerate(gammas):
        np.testing.assert_allclose(predictions[-4:, k], gamma**wait / (1 - gamma**4), atol=0.05)


def test_series_of_unequal_length_is_refused() -> None:
    with pytest.raises(UsageError, match=r"x has shape \(5, 2\) and cumulant \(4,\)"):
        predict_series(np.zeros((5, 2)), np.zeros(4))


@pytest.mark.parametrize(
    ("x", "cumulant", "words"),
    [
        ([[0.0, 1.0], [0.0, np.nan]], [0.0, 1.0], r"x\[1, 1\] is nan, expected numbers within"),
        ([[0.0], [0.0], [0.0]], [0.0, 1.0, np.inf], r"cumulant\[2\] is inf, expected numbers within"),
        ([["a"], ["b"]], [0.0, 1.0], "x is an array of <U1, expected real numbers"),
        ([[0.0], [0.0, 1.0]], [0.0, 1.0], "x is no array of numbers: its rows differ in length"),
    ],
)
def test_series_of_what_is_no_number_is_refused(x: list, cumulant: list, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        predict_series(x, cumulant)


def test_time_is_an_input_as_released_for_control_and_not_of_a_series() -> None:
    released = {"rule": Rule.OBGD, "preset": Preset.REFERENCE}
    assert StreamTD(OBS, config=StreamTDConfig(**released)).sizes[0][0] == OBS
    assert StreamQ(OBS, 2, config=StreamQConfig(**released)).sizes[0][0] == OBS + 1
    assert StreamQ(OBS, 2, config=StreamQConfig(**released, time_input=False)).sizes[0][0] == OBS


def test_random_actions_are_kept_by_a_power_law() -> None:
    state = np.array([1], np.uint64)
    draws = np.array([zeta(state, 2.0) for _ in range(40_000)])
    shares = [float((draws == n).mean()) for n in (1, 2, 3, 10)]
    np.testing.assert_allclose(shares, 6 / np.pi**2 / np.array([1, 4, 9, 100]), atol=0.008)
    assert draws.min() == 1 and draws.max() > 1000
    with pytest.raises(ValueError, match="repeat_exponent must be above 1"):
        StreamQConfig(repeat_exponent=1.0)
