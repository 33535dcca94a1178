"""Specs: what two of them differ in, in words."""

from __future__ import annotations

import dataclasses
import math

import pytest

from robotrl.core.types import ActionTerm, ObsTerm, Specs

SPECS = Specs(
    {
        "policy": (ObsTerm("height", 1, "m"), ObsTerm("joints", 2, "rad")),
        "privileged": (ObsTerm("mass", 1, "kg"),),
    },
    (ActionTerm("knee", "N m", -1.0, 1.0),),
    0.02,
)


def groups(*terms: ObsTerm) -> dict[str, tuple[ObsTerm, ...]]:
    return {"policy": terms, "privileged": SPECS.observation["privileged"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"control_dt_s": 0.3}, "an action every 0.3 s, not every 0.02 s"),
        ({"observation": {"policy": ()}}, "observation groups policy, not policy, privileged"),
        ({"observation": groups(ObsTerm("height", 1, "m"))}, "observation group 'policy' of 1 terms, not 2"),
        (
            {"observation": groups(ObsTerm("depth", 1, "m"), ObsTerm("joints", 2, "rad"))},
            "observation group 'policy': 'depth' (1, m), not 'height' (1, m)",
        ),
        (
            {"action": (ActionTerm("knee", "N m", -1.0, 2.0),)},
            "action: 'knee' in [-1, 2] N m, not 'knee' in [-1, 1] N m",
        ),
        ({"action": ()}, "action of 0 terms, not 1"),
    ],
)
def test_the_first_difference_is_named(change: dict, words: str) -> None:
    assert dataclasses.replace(SPECS, **change).difference(SPECS) == words


def test_what_is_equal_does_not_differ() -> None:
    assert SPECS.difference(dataclasses.replace(SPECS)) is None
    unknown = [dataclasses.replace(SPECS, control_dt_s=float("nan")) for _ in range(2)]
    assert unknown[0].difference(unknown[1]) is None
    assert unknown[0].difference(SPECS) == "an action every nan s, not every 0.02 s"


def test_a_difference_that_short_words_do_not_show_is_spelled_out() -> None:
    bounded = groups(ObsTerm("height", 1, "m", low=0.0, high=math.inf), SPECS.observation["policy"][1])
    words = dataclasses.replace(SPECS, observation=bounded).difference(SPECS)
    assert words is not None and "low=0.0" in words and "low=-inf" in words
