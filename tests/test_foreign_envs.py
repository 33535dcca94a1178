"""Other libraries' environments: whatever their way to auto-reset, a step is what one gets by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from counter_env import HIGH, LOW, Counter, NativeCounters, Row, by_hand
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import ActionTerm, ObsTerm, Step
from robotrl.envs.foreign import vec_env
from robotrl.envs.foreign.spaces import ActionWriter, ObservationReader
from robotrl.envs.foreign.vec_env import ForeignVecEnv

N, T = 3, 40
MODES = list(AutoresetMode)
SEED_RANGE = 2**30


def actions(count: int = T, num_envs: int = N, seed: int = 1) -> torch.Tensor:
    """(T, N, 2) in [-1, 1]."""
    return torch.rand(count, num_envs, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def physical(action: torch.Tensor) -> np.ndarray:
    """The same in the counters' own units."""
    return ((HIGH + LOW) / 2 + action.double().numpy() * (HIGH - LOW) / 2).astype(np.float32)


def first_seed(seed: int) -> int:
    """What `reset` draws for environment 0 of a fresh ForeignVecEnv."""
    return int(torch.randint(SEED_RANGE, (), generator=torch.Generator().manual_seed(seed)))


def flat(observation: Any) -> np.ndarray:
    """A counter's observation as the groups' columns are laid out: policy, then privileged."""
    if not isinstance(observation, dict):
        return np.asarray(observation, dtype=np.float32)
    inner = observation["inner"]
    columns = [inner["count"], inner["tag"].reshape(1), observation["privileged_state"].reshape(2)]
    return np.concatenate(columns).astype(np.float32)


def both_groups(obs: dict[str, torch.Tensor], i: int) -> np.ndarray:
    return torch.cat([values[i] for values in obs.values()]).numpy()


def expected(seed: int, action: torch.Tensor, **kwargs: Any) -> list[tuple[Any, list[Row]]]:
    """By hand, what each environment should show."""
    seeds = [first_seed(seed) + i for i in range(action.shape[1])]
    return [by_hand(Counter(**kwargs), s, physical(action[:, i])) for i, s in enumerate(seeds)]


def assert_step(step: Step, rows: list[Row]) -> None:
    """One step of N environments is the N rows that were made by hand."""
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(both_groups(step.obs, i), flat(row.obs))
        np.testing.assert_array_equal(both_groups(step.final_obs, i), flat(row.final_obs))
    assert step.reward.tolist() == [row.reward for row in rows]
    assert step.terminated.tolist() == [row.terminated for row in rows]
    assert step.truncated.tolist() == [row.truncated for row in rows]
    assert step.valid.all()
    assert torch.equal(step.log["reward/total"], step.reward)
    ended = [row.episode for row in rows if row.episode]
    assert ("episode/return" in step.log) == bool(ended)
    if ended:
        returns, lengths = zip(*ended, strict=True)
        assert step.log["episode/return"].tolist() == list(returns)
        assert step.log["episode/length"].tolist() == list(lengths)


def sync(mode: AutoresetMode, num_envs: int = N, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    return SyncVectorEnv([functools.partial(Counter, **kwargs)] * num_envs, copy=False, autoreset_mode=mode)


def processes(mode: AutoresetMode, num_envs: int = N, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    return AsyncVectorEnv([functools.partial(Counter, **kwargs)] * num_envs, autoreset_mode=mode)


def native(mode: AutoresetMode, num_envs: int = N, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    return NativeCounters(num_envs, mode, **kwargs)


@pytest.mark.parametrize("nested", [False, True], ids=["box", "dict"])
@pytest.mark.parametrize(
    ("make", "mode"),
    [
        *((sync, mode) for mode in MODES),
        *((processes, mode) for mode in MODES),
        (native, AutoresetMode.SAME_STEP),
    ],
    ids=lambda value: value.__name__ if callable(value) else value.value,
)
def test_every_way_to_reset_gives_the_steps_made_by_hand(
    make: Callable[..., Any], mode: AutoresetMode, nested: bool
) -> None:
    env = ForeignVecEnv(make(mode, nested=nested), "counter", seed=3, privileged=["privileged_state"])
    action = actions()
    firsts, rows = zip(*expected(3, action, nested=nested), strict=True)
    obs = env.reset()
    for i in range(N):
        np.testing.assert_array_equal(both_groups(obs, i), flat(firsts[i]))
    ended = 0
    for t in range(T):
        step = env.step(action[t])
        assert_step(step, [rows[i][t] for i in range(N)])
        ended += int(step.done.sum())
    assert ended >= 3 * N, "episodes must end for this to test anything"
    assert env.num_diverged == 0


@pytest.mark.parametrize("make", [native, processes], ids=["native", "processes"])
def test_a_call_that_only_resets_is_not_learned_from(make: Callable[..., Any]) -> None:
    """Rows that must not be learned from left out, the steps are those made by hand."""
    options = {"shared_memory": False} if make is processes else {}
    vector = (
        AsyncVectorEnv([Counter] * N, autoreset_mode=AutoresetMode.NEXT_STEP, **options)
        if options
        else make(AutoresetMode.NEXT_STEP)
    )
    env = ForeignVecEnv(vector, "counter", seed=3)
    env.reset()
    action = actions()
    played: list[list[np.ndarray]] = [[] for _ in range(N)]
    steps: list[list[Step]] = [[] for _ in range(N)]
    lengths: list[float] = []
    for t in range(T):
        age = env.age.clone()
        step = env.step(action[t])
        for i in range(N):
            if step.valid[i]:
                played[i].append(physical(action[t, i]))
                steps[i].append(step)
            else:
                assert age[i] == env.age[i] == 0 and step.reward[i] == 0 and not step.done[i]
        lengths += step.log.get("episode/length", torch.zeros(0)).tolist()
    by_length: list[float] = []
    for i in range(N):
        assert len(steps[i]) < T
        _, rows = by_hand(Counter(), first_seed(3) + i, np.stack(played[i]))
        for row, step in zip(rows, steps[i], strict=True):
            np.testing.assert_array_equal(step.final_obs["policy"][i].numpy(), flat(row.final_obs))
            done = row.terminated or row.truncated
            np.testing.assert_array_equal(
                step.obs["policy"][i].numpy(), flat(row.final_obs if done else row.obs)
            )
            assert (step.reward[i], step.terminated[i], step.truncated[i]) == (
                row.reward,
                row.terminated,
                row.truncated,
            )
            by_length += row.episode[1:]
    assert sorted(lengths) == sorted(by_length)
    assert env.num_diverged == 0


def test_terms_and_groups() -> None:
    space = Counter(nested=True).observation_space
    reader = ObservationReader(space, "counter", ["privileged_state", "not_there"])
    assert reader.terms == {
        "policy": (
            ObsTerm("inner.count", 2, "1", low=0, high=1000),
            ObsTerm("inner.tag", 1, "1", low=0, high=1),
        ),
        "privileged": (ObsTerm("privileged_state", 2, "1", low=-1, high=10),),
    }
    assert list(ObservationReader(space, "counter").terms) == ["policy"]
    env = ForeignVecEnv(sync(MODES[0]), "counter", control_dt_s=0.5)
    assert env.specs.action == (ActionTerm("action_0", "1", -1, 3), ActionTerm("action_1", "1", 0, 10))
    assert env.specs.control_dt_s == 0.5 and env.specs.obs_dim("policy") == 5
    unknown = ForeignVecEnv(sync(MODES[0]), "counter").specs
    assert np.isnan(unknown.control_dt_s)
    assert unknown == ForeignVecEnv(sync(MODES[0]), "counter").specs, "not known equals not known"


def test_tensors_are_fresh() -> None:
    env = ForeignVecEnv(sync(AutoresetMode.DISABLED), "counter", seed=3)
    first = env.reset()["policy"]
    kept = first.clone()
    step = env.step(actions()[0])
    before = [step.obs["policy"].clone(), step.reward.clone()]
    env.step(actions()[1])
    assert torch.equal(first, kept)
    assert torch.equal(before[0], step.obs["policy"]) and torch.equal(before[1], step.reward)


def test_actions_fill_the_range_and_no_more() -> None:
    env = ForeignVecEnv(sync(AutoresetMode.DISABLED), "counter")
    env.reset()
    for value, seen in ((-1.0, LOW), (1.0, HIGH), (0.0, (LOW + HIGH) / 2), (1.0000001, HIGH)):
        obs = env.step(torch.full((N, 2), value)).final_obs["policy"][:, 3:]
        assert obs.tolist() == [seen.tolist()] * N
    odd = spaces.Box(np.float32(-0.1), np.float32(0.7), (2, 3), np.float32)
    sent = ActionWriter(odd, "odd").batch(torch.ones(4, 6), 4)
    assert sent.shape == (4, 2, 3) and sent.dtype == np.float32 and odd.contains(sent[0])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.zeros(N, 3), r"actions must have shape \(3, 2\), got \(3, 3\)"),
        (torch.tensor([[0.0, 0.0], [0.0, float("nan")], [0.0, 0.0]]), "environment 1 got"),
        (torch.full((N, 2), 1.01), "must be finite and in"),
    ],
)
def test_wrong_actions_are_refused(action: torch.Tensor, message: str) -> None:
    env = ForeignVecEnv(sync(AutoresetMode.DISABLED), "counter")
    env.reset()
    with pytest.raises(UsageError, match=message):
        env.step(action)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(3), "takes actions in Discrete.3.: only continuous ones"),
        (spaces.Box(0, 5, (2,), np.int32), "only continuous ones"),
        (spaces.Dict(a=spaces.Box(-1, 1)), "only continuous ones"),
        (spaces.Box(-np.inf, np.inf, (2,)), r"odd: action 0 ranges over \[-inf, inf\]"),
        (
            spaces.Box(np.array([0.0, 1.0]), np.array([1.0, 1.0]), dtype=np.float64),
            r"action 1 ranges over \[1.0, 1.0\]",
        ),
    ],
)
def test_action_spaces_that_cannot_be_used(space: spaces.Space[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ActionWriter(space, "odd")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(16), r"odd observes Discrete\(16\): only Box"),
        (spaces.Dict(a=spaces.Box(-1, 1), b=spaces.Dict(c=spaces.Text(3))), "under 'b.c': only Box"),
        (spaces.Tuple([spaces.Box(-1, 1)]), "only Box"),
        (spaces.Dict(), "only Box"),
        (spaces.Box(-1, 1, (0,)), "only Box"),
        (spaces.Dict(privileged_state=spaces.Box(-1, 1)), "nothing is left for the policy"),
    ],
)
def test_observation_spaces_that_cannot_be_used(space: spaces.Space[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ObservationReader(space, "odd", ["privileged_state"])


def test_a_vector_environment_must_say_how_it_resets() -> None:
    vector = sync(AutoresetMode.DISABLED)
    vector.metadata = {}
    with pytest.raises(
        UsageError, match=r"does not say how it begins new episodes.*NextStep, SameStep, Disabled"
    ):
        ForeignVecEnv(vector, "counter")


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_what_is_not_finite_is_not_learned_from(mode: AutoresetMode) -> None:
    """The first step of the second episode is NaN: the row is zero, truncated, and a new episode begins."""
    env = ForeignVecEnv(sync(mode, nan_at=1), "counter", seed=3)
    env.reset()
    bad = 0
    for action in actions():
        step = env.step(action)
        assert all(torch.isfinite(values).all() for values in (*step.obs.values(), *step.final_obs.values()))
        for i in (~step.valid).nonzero().squeeze(1).tolist():
            bad += 1
            assert step.truncated[i] and not step.terminated[i] and step.reward[i] == 0
            assert step.final_obs["policy"][i].tolist() == [0.0] * 5
            assert step.obs["policy"][i, 1:3].tolist() == [2.0, 0.0], "the third episode begins"
            assert step.log["sim/diverged"].item() == (~step.valid).sum()
            assert env.age[i] == 0
    assert bad == env.num_diverged == N


@pytest.mark.parametrize(
    "mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP], ids=lambda mode: mode.value
)
def test_what_is_not_finite_ends_the_run_where_no_row_can_be_reset(mode: AutoresetMode) -> None:
    env = ForeignVecEnv(native(mode, nan_at=1), "counter", seed=3)
    env.reset()
    with pytest.raises(RobotrlError, match=r"counter: environment . returned what is not finite"):
        for action in actions():
            env.step(action)


def test_same_step_needs_the_final_observation() -> None:
    vector = native(AutoresetMode.SAME_STEP)
    original = vector.step
    vector.step = lambda action: (*original(action)[:4], {})  # type: ignore[method-assign]
    env = ForeignVecEnv(vector, "counter", seed=3)
    env.reset()
    with pytest.raises(RobotrlError, match=r"gives no infos\['final_obs'\]"):
        for action in actions():
            env.step(action)


def test_time_limit_truncates_and_ages_are_staggered() -> None:
    env = ForeignVecEnv(sync(AutoresetMode.DISABLED, 64, endless=True), "counter", max_steps=10, stagger=True)
    env.reset()
    ages = env.age.clone()
    assert ages.min() >= 0 and ages.max() < 10 and len(ages.unique()) > 5
    lengths = []
    for t, action in enumerate(actions(20, 64)):
        step = env.step(action)
        assert torch.equal(step.truncated, (ages + t + 1) % 10 == 0) and not step.terminated.any()
        shown = step.final_obs["policy"][:, 2]
        assert torch.equal(shown, torch.where(ages + t < 10, t + 1, (ages + t) % 10 + 1).float())
        assert (step.obs["policy"][step.truncated, 2] == 0).all()
        lengths += step.log.get("episode/length", torch.zeros(0)).tolist()
    assert set(lengths) == {10.0}
    # a shortened first episode is no whole one: of the ages 0 to 9 only 0 ends its first one whole
    assert len(lengths) == 64 + int((ages == 0).sum())


def test_time_limit_is_refused_where_it_cannot_be_kept() -> None:
    with pytest.raises(UsageError, match="cannot be given a time limit"):
        ForeignVecEnv(native(AutoresetMode.SAME_STEP), "counter", max_steps=3)


def test_an_episode_without_end_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vec_env, "_ENDLESS_STEPS", 30)
    env = ForeignVecEnv(sync(AutoresetMode.DISABLED, endless=True), "counter")
    env.reset()
    with pytest.raises(RobotrlError, match=r"has not ended within 30 control steps.*task.max_episode_steps"):
        for action in actions():
            env.step(action)


def play(env: ForeignVecEnv) -> list[float]:
    """The environments' tags, which their seeds determine, over some steps."""
    return [float(tag) for action in actions(20) for tag in env.step(action).obs["policy"][:, 0]]


def test_seeds() -> None:
    def make(seed: int) -> ForeignVecEnv:
        return ForeignVecEnv(sync(AutoresetMode.DISABLED), "counter", seed)

    one, same, other = make(5), make(5), make(6)
    assert torch.equal(one.reset()["policy"], same.reset()["policy"])
    assert (
        len(set(other.reset()["policy"][:, 0].tolist()) | set(one.reset()["policy"][:, 0].tolist())) == 2 * N
    )
    same.reset()
    assert play(one) == play(same)


def test_resuming_starts_episodes_that_were_not_seen() -> None:
    env = ForeignVecEnv(sync(AutoresetMode.DISABLED), "counter", 5)
    seen = set(env.reset()["policy"][:, 0].tolist()) | set(play(env))
    env.num_diverged = 4
    state = env.state_dict()
    tags = []
    for _ in range(2):
        resumed = ForeignVecEnv(sync(AutoresetMode.DISABLED), "counter", 5)
        resumed.reset()
        obs = resumed.load_state_dict(state)
        assert resumed.num_diverged == 4 and not resumed.age.any()
        tags.append([*obs["policy"][:, 0].tolist(), *play(resumed)])
    assert tags[0] == tags[1], "resuming twice is the same"
    assert not seen & set(tags[0])
    later = resumed.load_state_dict(resumed.state_dict())["policy"][:, 0].tolist()
    assert not set(later) & {*seen, *tags[0]}, "nor is a second resumption the first one again"


def test_gymnasium_wrappers_stay_usable() -> None:
    """A wrapped vector environment is as good as a bare one."""
    vector = gymnasium.wrappers.vector.RecordEpisodeStatistics(sync(AutoresetMode.NEXT_STEP))
    env = ForeignVecEnv(vector, "counter", seed=3)
    action = actions()
    _, rows = zip(*expected(3, action), strict=True)
    env.reset()
    for t in range(T):
        assert_step(env.step(action[t]), [rows[i][t] for i in range(N)])
