"""Run Python commands in forks of a process that has imported what takes seconds.

Each command is still a process of its own, with its own arguments, folder, environment, output and exit status. The
imports alone are made once: PyTorch takes more processor time than most commands of the documentation.
Trainings and reports attack with few steps where no test looks at how strong they are: see tests/short_attacks.py.
What a command imports, and when, is tested elsewhere: tests/test_imports.py, tests/test_start_up.py.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
IMPORTED = (
    *("training.train", "training.evaluate.evaluate", "training.convert.convert", "export.export"),
    "torch._dynamo",  # torch.func.grad and the first step of an optimiser import it
)
"""Modules that are imported before the first command, where none are named. They import PyTorch."""
PROGRAM = """\
#!{python} -IS
import json, os, socket, sys

module, *rest = [*sys.argv[2:], ""]
if module.split(".")[0] in {others!r} or module == "sgn" and rest[0] in {others!r}:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
    sent = json.dumps(asked).encode()
    socket.send_fds(server, [len(sent).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(sent)
    status = server.recv(1)
sys.exit(status[0] if status else 1)
"""
"""The program `python`. It hands its arguments, folder, environment and standard files over, and waits for the end."""
OTHERS = ("sgn_serve", "bentoml", "serve", "classify", "report")
"""Modules, and commands of `sgn`, that start threads or processes of their own, which a fork may not survive."""


@contextmanager
def running_warm_python(imported: Sequence[str] = IMPORTED) -> Iterator[Path]:
    """Yield the program `python` until the block ends. It takes `-c CODE` and `-m MODULE` with arguments.

    Where the variable WARM_PYTHON names it, its commands find it as sys.executable, for those that they run.

    Args:
        imported: Modules that are imported before the first command, with the PYTHONPATH of this moment.
    """
    with tempfile.TemporaryDirectory() as folder:
        address = str(Path(folder) / "socket")
        program = Path(folder) / "python"
        program.write_text(PROGRAM.format(python=sys.executable, address=address, others=OTHERS))
        program.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            server = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno()), *imported],
                cwd=folder,
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )
        try:
            yield program
        finally:
            assert server.stdin is not None
            server.stdin.close()
            server.wait()


def serve(listener: socket.socket, imported: Sequence[str]) -> None:
    """Import modules, then fork for every command until standard input is closed."""
    for name in imported:
        importlib.import_module(name)
    importlib.import_module("tests.short_attacks").shorten()
    gc.freeze()  # no command looks through what it did not make itself
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        with connection:
            if os.fork() == 0:
                listener.close()
                _answer(connection)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def _answer(connection: socket.socket) -> NoReturn:
    """Fork once more, for the command, and tell its exit status."""
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    asked = b""
    while len(asked) < int.from_bytes(head, "big"):
        asked += connection.recv(1 << 16)
    command = os.fork()
    if command == 0:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        _end(_status(json.loads(asked)))
    _, status = os.waitpid(command, 0)
    connection.sendall(bytes([os.waitstatus_to_exitcode(status) & 255]))
    os._exit(0)


def _status(asked: dict[str, Any]) -> int:
    """Run a command, and return its exit status as Python would end with it."""
    try:
        _run(**asked)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(status: int) -> NoReturn:
    """End as Python does, but without the destructors of C++: they wait for threads that no fork takes along."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 255)


def _run(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = environment.get("WARM_PYTHON", sys.executable)
    option, what, *rest = arguments
    sys.argv = [option, *rest]
    sys.path[0] = folder
    if option == "-c":
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(what, "<string>", "exec"), vars(main))
    else:
        assert option == "-m", arguments
        runpy.run_module(what, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
