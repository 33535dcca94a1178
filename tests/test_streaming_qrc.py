"""QRC(lambda), compiled, against plain torch with autograd in float64; what its correction is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from streaming_common import Walk, close

from robotrl.algorithms.streaming.compiled import uniform
from robotrl.algorithms.streaming.config import Preset, StreamQRCConfig
from robotrl.algorithms.streaming.network import layer_matrices
from robotrl.algorithms.streaming.qrc import StreamQRC
from robotrl.algorithms.streaming.reference import epsilon, epsilon_greedy, network
from robotrl.algorithms.streaming.reference_qrc import ReferenceQRC
from robotrl.algorithms.streaming.rules.codes import Rule

OBS, ACTIONS, STREAMS = 4, 3, 2
# rates a thousand times as large as usual, so that a wrong term shows
CONFIG = StreamQRCConfig(
    hidden=[12, 8],
    sparsity=0.5,
    exploration_steps=150,
    epsilon_end=0.2,
    critic_learning_rate=0.03,
    correction_learning_rate=0.02,
    correction_decay=0.5,
)


def copied(learner: StreamQRC, name: str, i: int) -> list[torch.Tensor]:
    k = learner.heads.index(name)
    matrices = layer_matrices(learner.parameters(name)[i], learner.sizes[k])
    return [torch.from_numpy(matrix.copy()) for matrix in matrices]


def test_an_update_is_the_formula() -> None:
    learner = StreamQRC(OBS, ACTIONS, STREAMS, CONFIG, seed=1, dtype=np.float64)
    made = [
        ReferenceQRC(CONFIG, OBS, copied(learner, "critic", i), copied(learner, "correction", i))
        for i in range(STREAMS)
    ]
    walk, random = Walk(STREAMS, OBS), learner.streams.random.copy()

    def choose(i: int, steps: int) -> int:
        probability = epsilon(CONFIG, steps)
        first = uniform(random[i])
        second = uniform(random[i]) if first <= probability else 0.0
        return epsilon_greedy(network(made[i].critic, made[i].state), probability, first, second)

    learner.start(walk.obs)
    for i, reference in enumerate(made):
        reference.start(walk.obs[i])
    actions = [choose(i, 0) for i in range(STREAMS)]
    explored = 0
    for t in range(1, 401):
        assert learner.act()[:, 0].tolist() == actions
        step = walk.step()
        learner.update(*step)
        for i, reference in enumerate(made):
            greedy = int(network(reference.critic, reference.state).argmax()) == actions[i]
            explored += not greedy
            transition = (*(float(x[i]) for x in step[:3]), step[3][i], step[4][i])
            reference.update(*transition, actions[i], greedy)
            actions[i] = choose(i, t)
            close(copied(learner, "critic", i), reference.critic)
            close(copied(learner, "correction", i), reference.correction)
            close(layer_matrices(learner.traces("critic")[i], learner.sizes[0]), reference.critic_trace)
            traces = layer_matrices(learner.traces("correction")[i], learner.sizes[1])
            close(traces, reference.correction_trace)
    assert 50 < explored < 700
    assert max(float(w.abs().max()) for w in made[0].correction) > 0.01


def test_a_step_that_is_not_valid_changes_no_parameter() -> None:
    learner = StreamQRC(OBS, ACTIONS, STREAMS, CONFIG, seed=1)
    walk = Walk(STREAMS, OBS)
    learner.start(walk.obs)
    for _ in range(20):
        learner.update(*walk.step())
    before = learner.parameters("critic").copy()
    learner.update(*walk.step(), valid=np.array([False, True]))
    assert np.array_equal(learner.parameters("critic")[0], before[0])
    assert not np.array_equal(learner.parameters("critic")[1], before[1])
    assert not learner.traces("critic")[0].any()


def test_the_state_is_all_there_is() -> None:
    learner, other = (StreamQRC(OBS, ACTIONS, STREAMS, CONFIG, seed=seed) for seed in (1, 2))
    walk = Walk(STREAMS, OBS)
    learner.start(walk.obs)
    for _ in range(30):
        learner.update(*walk.step())
    other.load_state_dict(learner.state_dict())
    for _ in range(30):
        step = walk.step()
        for each in (learner, other):
            each.update(*step)
    for name, array in learner.state_dict().items():
        np.testing.assert_array_equal(array, other.state_dict()[name])


@pytest.mark.parametrize("options", [{"rule": Rule.OBGD}, {"preset": Preset.REFERENCE}])
def test_rules_and_presets_of_others_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="neither another rule than sgd nor a preset"):
        StreamQRCConfig(**options)
