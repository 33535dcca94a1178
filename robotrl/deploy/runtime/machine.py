"""The states of a robot under a policy, and who may go from where to where."""

from __future__ import annotations

import enum

from robotrl.core.errors import UsageError


class State(enum.IntEnum):
    """What the runtime is doing."""

    DISARMED = 0
    """Nothing is sent."""
    READY = 1
    """The policy reproduces its recordings on this machine; nothing is sent."""
    MOVE_TO_DEFAULT = 2
    """From the measured pose to the default one."""
    HOLD = 3
    """In the default pose."""
    POLICY = 4
    """The policy commands."""
    DAMPING = 5
    """Joints are damped, other drives get their safe command. Only a person ends this."""


WORDS = ("arm", "go", "stop", "reset")
_BY_WORD = {
    ("arm", State.READY): State.MOVE_TO_DEFAULT,
    ("go", State.HOLD): State.POLICY,
    ("reset", State.DAMPING): State.DISARMED,
}


class Machine:
    """Holds the state.

    Every change is one of:

    * DISARMED to READY: the self-test passed,
    * READY to MOVE_TO_DEFAULT: a person said `arm`,
    * MOVE_TO_DEFAULT to HOLD: the default pose is reached,
    * HOLD to POLICY: a person said `go`,
    * any to DAMPING: a person said `stop`, or a guard did,
    * DAMPING to DISARMED: a person said `reset`.

    Attributes:
        state: now.
        since_s: when it began.
    """

    def __init__(self, now_s: float) -> None:
        self.state, self.since_s = State.DISARMED, now_s

    @property
    def armed(self) -> bool:
        """Whether commands are sent."""
        return self.state not in (State.DISARMED, State.READY)

    def say(self, word: str, now_s: float) -> None:
        """Do what a person says.

        Raises:
            UsageError: it is no word, or not one of this state.
        """
        if word == "stop":
            self.damp(now_s)
            return
        after = _BY_WORD.get((word, self.state))
        if after is None:
            fitting = [known for known, state in _BY_WORD if state is self.state]
            raise UsageError(
                f"{word!r} means nothing in {self.state.name}: say {' or '.join([*fitting, 'stop'])}"
            )
        self._enter(after, now_s)

    def self_test_passed(self, now_s: float) -> None:
        """Go from DISARMED to READY."""
        self._follow(State.DISARMED, State.READY, now_s)

    def pose_reached(self, now_s: float) -> None:
        """Go from MOVE_TO_DEFAULT to HOLD."""
        self._follow(State.MOVE_TO_DEFAULT, State.HOLD, now_s)

    def damp(self, now_s: float) -> None:
        """Go to DAMPING from anywhere."""
        if self.state is not State.DAMPING:
            self._enter(State.DAMPING, now_s)

    def _follow(self, before: State, after: State, now_s: float) -> None:
        if self.state is not before:
            raise AssertionError(f"{after.name} follows {before.name}, not {self.state.name}")
        self._enter(after, now_s)

    def _enter(self, state: State, now_s: float) -> None:
        self.state, self.since_s = state, now_s
