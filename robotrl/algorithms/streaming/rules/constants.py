"""Numbers that several rules share."""

from __future__ import annotations

SQUARE_DECAY = 0.999
"""Of the running means of squares."""

TINY = 1e-30
"""Traces below it are 0. Those of an input that stays 0 would decay into denormal numbers and remain
there, where every operation takes many times as long."""

TINY_SQUARE = 1e-36
"""The same for running means of squares."""
