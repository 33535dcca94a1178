"""The step-size rules' names and what kernels call them."""

from __future__ import annotations

import enum

from robotrl.algorithms.streaming.compiled import constant

OBGD, ADAPTIVE_OBGD, INTENTIONAL, INTENTIONAL_FISHER, SGD, ADAM = 0, 1, 2, 3, 4, 5
OUTPUT_NORM, INTENTIONAL_LOGITS = constant(6), constant(7)


class Rule(enum.Enum):
    """How a step size is found."""

    OBGD = "obgd"
    ADAPTIVE_OBGD = "adaptive_obgd"
    INTENTIONAL = "intentional"
    """Of a categorical policy it fixes how far the logits move, see `rules.intentional`."""
    INTENTIONAL_FISHER = "intentional_fisher"
    """Intentional, a Gaussian policy's step independent of the sampled action."""
    SGD = "sgd"
    ADAM = "adam"

    @property
    def code(self) -> int:
        """What kernels call it."""
        return list(Rule).index(self)

    @property
    def is_intentional(self) -> bool:
        """Whether it fixes how far the output moves."""
        return self in (Rule.INTENTIONAL, Rule.INTENTIONAL_FISHER)

    @property
    def num_moments(self) -> int:
        """Numbers it keeps per parameter, besides the parameter and its trace."""
        return {Rule.OBGD: 0, Rule.SGD: 0, Rule.ADAM: 2}.get(self, 1)

    @property
    def rate(self) -> str:
        """What its one hyperparameter is called."""
        if self in (Rule.OBGD, Rule.ADAPTIVE_OBGD):
            return "kappa"
        return "eta" if self.is_intentional else "learning_rate"


def rule_name(code: int) -> str:
    """Return what a rule with this code is called."""
    return "intentional, of logits" if code == INTENTIONAL_LOGITS else list(Rule)[code].value
