"""Updates per second of SAC, RLPD, EXPO and FQL, ours and others', one torch thread unless told otherwise.

    python scripts/bench_update.py [--repeats 7] [--sample-s 1.0] [--threads 1] [--methods sac td3 ...]
                                    [--contenders compiled sb3 ...] [--out PATH]

In one process and in turns, one sample each per repeat, on random batches of 256 with 23 observations and 7
actions, at the papers' sizes: SAC and TD3 2 x 256 (against Stable-Baselines3's `train` and, for SAC,
CleanRL's structure in `update_peers.py`), RLPD ten critics of 2 x 256 with a policy update after 20 of them,
EXPO ten critics of 3 x 256 and an LN-ResNet of ten steps with 8 + 8 candidates, FQL 4 x 512 (these against
straight eager updates in `update_peers.py`), and each of ours once more with `compile=true`. An update is a
critic update with its share of the policy's. Ratios are medians over the repeats of ours / theirs: where
`ratio_compiled` is below 1, compiling pays. It takes minutes before the first sample (`--contenders` leaves
it, or peers, out).

Writes benchmarks/results/bench_update.json, or --out.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import update_peers
from bench_common import RESULTS, provenance, write_json

from robotrl.algorithms.off_policy.expo import EXPO, EXPOConfig
from robotrl.algorithms.off_policy.fql import FQL, FQLConfig
from robotrl.algorithms.off_policy.rlpd import RLPD, RLPDConfig
from robotrl.algorithms.off_policy.sac import SAC, SACConfig
from robotrl.algorithms.off_policy.td3 import TD3, TD3Config
from robotrl.core.types import ActionTerm, ObsTerm, Specs
from robotrl.data.replay import Transitions

OUT = RESULTS / "bench_update.json"
OBS, ACTIONS, BATCH = 23, 7, 256
SPECS = Specs(
    {"policy": (ObsTerm("x", OBS, "m"),)},
    tuple(ActionTerm(f"a{i}", "N", -1.0, 1.0) for i in range(ACTIONS)),
    control_dt_s=0.05,
)
Advance = Callable[[], int]
"""Does some updates and returns how many."""


class Batches:
    """Random batches drawn beforehand, so that drawing is not measured."""

    def __init__(self, count: int = 32) -> None:
        g = torch.Generator().manual_seed(0)
        self.rows = [
            (
                torch.randn(BATCH, OBS, generator=g),
                torch.rand(BATCH, ACTIONS, generator=g) * 2 - 1,
                torch.randn(BATCH, generator=g),
                0.99 * (torch.rand(BATCH, generator=g) < 0.98),
                torch.randn(BATCH, OBS, generator=g),
            )
            for _ in range(count)
        ]
        self.t = 0

    def next(self) -> update_peers.Batch:
        """Return the next batch."""
        self.t += 1
        return self.rows[self.t % len(self.rows)]


def ours(algorithm_class: type, config: Any, policy: dict[str, Any]) -> Advance:
    """Return one update of an algorithm of ours, after those that compile it."""
    rng = torch.Generator().manual_seed(0)
    policy_class = algorithm_class.default_policy
    base = policy_class(SPECS, policy_class.config_class(normalize_obs=False, **policy), rng)
    algorithm = algorithm_class(SPECS, algorithm_class.make_policy(SPECS, base, config, rng), config, rng)
    batches = Batches()

    def advance() -> int:
        obs, action, reward, discount, next_obs = batches.next()
        mask = torch.ones(BATCH, 1)
        algorithm.update(Transitions({"policy": obs}, action, reward, discount, {"policy": next_obs}, mask))
        return 1

    if config.compile:  # each kind of update is compiled when it comes for the second time
        for _ in range(2 * config.policy_delay):
            advance()
    return advance


def straight(update: update_peers.Update) -> Advance:
    """Return one straight update."""
    batches = Batches()

    def advance() -> int:
        update(batches.next())
        return 1

    return advance


def sb3(name: str) -> Advance:
    """Return 20 updates of Stable-Baselines3's SAC or TD3 from a full replay, as its `train` does them."""
    import stable_baselines3

    class Spaces(gymnasium.Env[np.ndarray, np.ndarray]):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)

        def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
            return np.zeros(OBS, np.float32), {}

    model = getattr(stable_baselines3, name)(
        "MlpPolicy", Spaces(), batch_size=BATCH, buffer_size=BATCH * 32, device="cpu",
        policy_kwargs={"net_arch": [256, 256]},
    )  # fmt: skip
    model._setup_learn(1)
    for obs, action, reward, discount, next_obs in Batches().rows:
        for i in range(BATCH):
            done = np.array([discount[i].item() == 0.0])
            row = (obs[i].numpy(), next_obs[i].numpy(), action[i].numpy(), reward[i].numpy(), done, [{}])
            model.replay_buffer.add(*row)

    def advance() -> int:
        model.train(gradient_steps=20, batch_size=BATCH)
        return 20

    return advance


def with_compiled(
    algorithm_class: type, config: Any, policy: dict[str, Any]
) -> dict[str, Callable[[], Advance]]:
    """Return ours, as it is and compiled."""
    compiled = dataclasses.replace(config, compile=True)
    return {
        "ours": lambda: ours(algorithm_class, config, policy),
        "compiled": lambda: ours(algorithm_class, compiled, policy),
    }


def makers(methods: list[str]) -> dict[str, dict[str, Callable[[], Advance]]]:
    """Return method -> contender -> what makes it; the first contender is ours."""
    two, three, four = [256, 256], [256, 256, 256], [512, 512, 512, 512]
    resnet = {"hidden": three, "steps": 10}
    sac = SACConfig(hidden=two, policy_delay=1)
    rlpd = RLPDConfig(hidden=two)
    expo = EXPOConfig(hidden=three, policy_delay=20)
    fql = FQLConfig(hidden=four)
    found: dict[str, dict[str, Callable[[], Advance]]] = {
        "sac": {
            **with_compiled(SAC, sac, {"hidden": two}),
            "sb3": lambda: sb3("SAC"),
            "cleanrl": lambda: straight(update_peers.sac(OBS, ACTIONS, two)),
        },
        "td3": {
            **with_compiled(TD3, TD3Config(hidden=two), {"hidden": two}),
            "sb3": lambda: sb3("TD3"),
        },
        "rlpd": {
            **with_compiled(RLPD, rlpd, {"hidden": two}),
            "straight": lambda: straight(update_peers.sac(OBS, ACTIONS, two, 10, True, 20)),
        },
        "expo": {
            **with_compiled(EXPO, expo, resnet),
            "straight": lambda: straight(update_peers.expo(OBS, ACTIONS, three, 20)),
        },
        "fql": {
            **with_compiled(FQL, fql, {"hidden": four}),
            "straight": lambda: straight(update_peers.fql(OBS, ACTIONS, four)),
        },
    }
    return {name: found[name] for name in methods}


def rate(advance: Advance, sample_s: float) -> float:
    """Return updates per second over a sample; at least one call."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < sample_s or not count:
        count += advance()
    return count / elapsed


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sample-s", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=["sac", "td3", "rlpd", "expo", "fql"])
    parser.add_argument("--contenders", nargs="+", help="beside ours; all unless given")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    document: dict[str, Any] = {"provenance": provenance(), "threads": args.threads, "methods": {}}
    for method, contenders in makers(args.methods).items():
        wanted = {"ours", *(args.contenders or contenders)}
        advances = {name: make() for name, make in contenders.items() if name in wanted}
        for advance in advances.values():
            rate(advance, args.sample_s / 2)  # warm
        rates: dict[str, list[float]] = {name: [] for name in advances}
        for _ in range(args.repeats):
            for name, advance in advances.items():
                rates[name].append(rate(advance, args.sample_s))
        medians = {name: statistics.median(samples) for name, samples in rates.items()}
        cell: dict[str, Any] = {"updates_per_s": medians, "samples": rates}
        for name in list(rates)[1:]:
            ratios = [a / b for a, b in zip(rates["ours"], rates[name], strict=True)]
            cell[f"ratio_{name}"] = statistics.median(ratios)
        document["methods"][method] = cell
        print(method, {k: (round(v, 2) if isinstance(v, float) else v) for k, v in cell.items()}, flush=True)
        write_json(args.out, document)


if __name__ == "__main__":
    main()
