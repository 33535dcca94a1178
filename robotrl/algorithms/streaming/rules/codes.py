"""The step-size rules' names and what kernels call them."""

from __future__ import annotations

import enum

from robotrl.algorithms.streaming.compiled import constant

# checkpoints hold these; 3 was a rule that measured no better
OBGD, ADAPTIVE_OBGD, INTENTIONAL, SGD, ADAM = 0, 1, 2, 4, 5
OUTPUT_NORM, INTENTIONAL_LOGITS, GRADIENT = constant(6), constant(7), constant(8)


class Rule(enum.Enum):
    """How a step size is found."""

    OBGD = "obgd"
    ADAPTIVE_OBGD = "adaptive_obgd"
    INTENTIONAL = "intentional"
    """Of a categorical policy it fixes how far the logits move, see `rules.intentional`."""
    SGD = "sgd"
    ADAM = "adam"

    @property
    def code(self) -> int:
        """What kernels call it."""
        return _CODES[self]

    @property
    def num_moments(self) -> int:
        """Numbers it keeps per parameter, besides the parameter and its trace."""
        return {Rule.OBGD: 0, Rule.SGD: 0, Rule.ADAM: 2}.get(self, 1)

    @property
    def rate(self) -> str:
        """What its one hyperparameter is called."""
        if self in (Rule.OBGD, Rule.ADAPTIVE_OBGD):
            return "kappa"
        return "eta" if self is Rule.INTENTIONAL else "learning_rate"


RATES = {rule.rate for rule in Rule}
"""Names of the rules' hyperparameters."""
_CODES = {
    Rule.OBGD: OBGD,
    Rule.ADAPTIVE_OBGD: ADAPTIVE_OBGD,
    Rule.INTENTIONAL: INTENTIONAL,
    Rule.SGD: SGD,
    Rule.ADAM: ADAM,
}


def rule_name(code: int) -> str:
    """Return what a rule with this code is called."""
    names = {number: rule.value for rule, number in _CODES.items()}
    return names.get(code, "intentional, of logits" if code == INTENTIONAL_LOGITS else "one that is gone")
