"""Signals are handled in the main thread as ever, but a thread waits for them and no handler interrupts another one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sgn_serve.process.signal_thread import NUMBERS
from tests.sgn_serve.server import ROOT, serve_environment
from tests.sgn_serve.tiny_graph import save_tiny_graph

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


WORKER = """
import asyncio, os, re, threading
from pathlib import Path
from sgn_serve import service
from sgn_serve.serving import predictor  # its libraries start threads that do not run the network

async def start(worker):
    await worker.start()
    waiting = {str(thread.native_id) for thread in threading.enumerate() if thread.name == "signals"}
    assert len(waiting) == 1
    for thread in {str(os.getpid())} | {*os.listdir("/proc/self/task")} - before - waiting:
        print(re.search(r"SigBlk:\\s*(\\w+)", Path(f"/proc/self/task/{thread}/status").read_text())[1])
    await worker.stop()

before = {*os.listdir("/proc/self/task")}
asyncio.run(start(service.RobustClassifier.inner()))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux tells which signals a thread blocks")
def test_no_thread_that_runs_the_network_is_interrupted_by_a_signal(tmp_path):
    settings = {"SGN_MODEL": str(save_tiny_graph(tmp_path / "tiny.onnx")), "SGN_THREADS": "4"}
    environment = serve_environment(tmp_path, **settings)
    started = subprocess.run(
        [sys.executable, "-c", WORKER], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    masks = [int(line, 16) for line in started.stdout.split()]
    assert len(masks) > 3, started.stderr
    for mask in masks:
        assert all(mask >> (number - 1) & 1 for number in NUMBERS)
