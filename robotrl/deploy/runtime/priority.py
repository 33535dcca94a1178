"""Real-time scheduling, where the operating system grants it."""

from __future__ import annotations

import os

RUNTIME, WATCHDOG, SIMULATED_ROBOT = 20, 30, 10


def real_time(priority: int) -> bool:
    """Let this thread, and those it starts from now on, run before all ordinary ones (SCHED_FIFO).

    Args:
        priority: among the real-time ones, 1 to 99.

    Returns:
        Whether it was granted: root, CAP_SYS_NICE or an rtprio limit in /etc/security/limits.conf.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, OSError):  # not Linux, or not allowed
        return False
    return True
