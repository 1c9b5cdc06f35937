"""Ctrl-C and SIGTERM (which docker, systemd and slurm send): how a process of ours is stopped."""

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
AGAIN = 2.0  # seconds in which a second signal is taken for the same one, and cannot stop cleaning


class Terminated(BaseException):
    """SIGTERM came. Not an Exception, so that nothing takes it for an error of its own."""


class Interrupted(KeyboardInterrupt):
    """SIGINT came. Python remembers a KeyboardInterrupt that ends an exec() of a text, which is how
    dataclasses are made, and although it was caught, `python -m` then ends by the signal and not
    with the exit code. It does not remember a subclass."""


class Interrupts:
    """A context in which both signals end the process in an orderly way.

    At first at once, with the sentence `stopped`: while modules are imported there is nothing to
    clean up, and an exception would be swallowed by some of them. After clean_up_first() by an
    exception, Interrupted or Terminated, so that temporary files are removed. last: nothing
    comes after this context but the end of the process, which no signal shall turn into another
    exit code. code is that of the signal that came, if any. An exception that is raised inside a
    finaliser ends there, so the signal then comes once more.
    """

    def __init__(self, stopped: str, last: bool = False):
        self.stopped, self.last = stopped, last
        self.code = 0
        self._raises, self._time, self._process = False, 0.0, os.getpid()
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in CODES}
            self._hook, sys.unraisablehook = sys.unraisablehook, self._swallowed
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before:
            sys.unraisablehook = self._hook
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.last else before)  # type: ignore[arg-type]

    def _swallowed(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """What is called for exceptions of finalisers, which Python ignores."""
        number = next((n for n, code in CODES.items() if code == self.code), None)
        ours = isinstance(unraisable.exc_value, KeyboardInterrupt | Terminated)
        if not ours or number is None:
            self._hook(unraisable)
            return
        self.code = 0
        again = threading.Timer(0.01, os.kill, (self._process, number))
        again.daemon = True
        again.start()

    def clean_up_first(self) -> None:
        """From now on signals raise."""
        self._raises = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        code = CODES[signal.Signals(number)]
        if os.getpid() != self._process:  # a worker process, which has inherited this
            os._exit(code)
        if not self._raises:
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{self.stopped}\n".encode())
            os._exit(code)
        if self.code and time.monotonic() - self._time < AGAIN:
            return
        self.code, self._time = code, time.monotonic()
        raise Interrupted if number == signal.SIGINT else Terminated
