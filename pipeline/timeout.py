"""Giving up on a computation after a time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Alarm(BaseException):
    """Not an `Exception`: libraries that catch everything must not catch this."""


@contextmanager
def time_limit(seconds: float | None, what: str) -> Iterator[None]:
    """Raise `TimeoutError` in the body when it takes longer; None = no limit.

    The body is stopped between two Python instructions, hence after the network pass or the array operation that is
    running. Only the main thread of a POSIX system has the alarm that this needs.
    """
    if seconds is None:
        yield
        return
    check_available()

    def ring(*_: object) -> None:
        raise _Alarm

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _Alarm:
        raise TimeoutError(f"{what}: not done after {seconds:g} s (--timeout)") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def check_available() -> None:
    """Raise `ValueError` where there is no alarm."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        raise ValueError("a timeout needs the main thread of Linux or macOS")
