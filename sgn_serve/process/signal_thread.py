"""Take a worker's signals in a thread that waits for them, so that none interrupts a thread that computes.

OpenVINO computes bfloat16 with a processor's tiles (AMX). Linux cannot always set up the frame of a signal's handler in
a process that has used them. Then it ends the process with SIGSEGV. This was seen with Linux 6.18 in a virtual machine:
under load, SIGHUP after a reload ended nearly every worker, with bfloat16 alone. A thread in sigwait needs no frame.
"""

import _thread
import os
import signal
import threading

NUMBERS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
"""The signals that a worker gets."""


def take_signals() -> None:
    """Block these signals, and hand them to Python's handlers from a thread of their own.

    Call it in the main thread before others are started, for they inherit what is blocked. So do processes, which call
    unblock_signals.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
    threading.Thread(target=_wait, name="signals", daemon=True).start()


def unblock_signals() -> None:
    """Take signals as usual, in a process that a worker has started."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)


def _wait() -> None:
    while True:
        number = signal.sigwait(NUMBERS)
        handler = signal.getsignal(number)
        if handler is signal.SIG_DFL:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
            os.kill(os.getpid(), number)
        elif handler is not signal.SIG_IGN:
            _thread.interrupt_main(signal.Signals(number))
