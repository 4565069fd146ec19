"""Signals are handled in the main thread as ever, but a thread waits for them and no handler interrupts another one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, subprocess, sys, threading, time
from sgn_serve.process.signal_thread import NUMBERS, take_signals

number = signal.Signals[sys.argv[1]]
take_signals()
assert set(NUMBERS) <= signal.pthread_sigmask(signal.SIG_BLOCK, []), "nothing interrupts this thread"
taken = []
if sys.argv[2] == "loop":
    import uvloop

    async def main():
        import asyncio

        done = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(number, done.set)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(done.wait(), 20)

    uvloop.run(main())
elif sys.argv[2] == "handler":
    signal.signal(number, lambda got, frame: taken.append((got, threading.current_thread().name)))
    os.kill(os.getpid(), number)
    until = time.monotonic() + 20
    while not taken and time.monotonic() < until:
        time.sleep(0.01)
    assert taken == [(number, "MainThread")], taken
elif sys.argv[2] == "ignored":
    signal.signal(number, signal.SIG_IGN)
    os.kill(os.getpid(), number)
    time.sleep(0.3)
elif sys.argv[2] == "child":
    code = (
        "import os, signal, sys; from sgn_serve.process.signal_thread import unblock_signals; unblock_signals();"
        "signal.signal(int(sys.argv[1]), signal.SIG_DFL); os.kill(os.getpid(), int(sys.argv[1])); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(int(number))], stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (-number, b""), done
else:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(20)
print("went on")
"""


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
@pytest.mark.parametrize("way", ["handler", "loop", "ignored", "child", "default"])
def test_every_signal_does_what_its_handler_says(name, way):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, way],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    expected = (-signal.Signals[name], "") if way == "default" else (0, "went on\n")
    assert (done.returncode, done.stdout) == expected, done.stderr
