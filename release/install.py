"""Go from `git clone` to a served classifier of one's own folder, in an empty environment, and keep what it costs.

    python -m release.install --work build/install

It needs git, make, and an index of packages that pip reaches. It clones the last commit of this checkout, and types
what the README says. That is `make serve`, the installation for training, and then train, judge, export and serve. The
training is as short as can be, and the judging is one attack. Nothing of this checkout's environment is used.
results/install.json gets the commands with their times.
"""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks.command_line import ROOT, add_out, command_parser, write_result
from benchmarks.provenance import processor
from release.own_folder import CLASSES, FIX, OwnFolderError, Step, classified, stopwatch, wait_until_ready
from sgn_serve.common.error_text import say, system_errors_as
from sgn_serve.common.markdown import table
from training.common.errors import TrainingError
from training.common.files import check_writable
from training.common.provenance import git_commit

RESULT = ROOT / "results" / "install.json"
FIRST_SECONDS = 1800.0
"""Timeout of `make serve`, which installs packages first."""
END_SECONDS = 60.0
"""Timeout of a server's end."""
FOREIGN = ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VENV", "PYTHON", "RUNTIME", "HOST")
"""Variables that would take something of this environment along. Those of the service begin with SGN_."""
TRAINING = ("--arch", "wrn-10-1", "--epochs", "2", "--batch-size", "8", "--run", "mine")
"""Options of a training of seconds: what is learnt does not matter here."""


def run(clone: Path, environment: Mapping[str, str], *command: str) -> None:
    """Run a command in the clone.

    Raises:
        OwnFolderError: It failed; it has printed why.
    """
    if subprocess.run(command, cwd=clone, env=environment, check=False).returncode:
        raise OwnFolderError(f"{shlex.join(command)} failed; its message is above")


@contextmanager
def served(clone: Path, environment: Mapping[str, str], *command: str) -> Iterator[httpx.Client]:
    """Yield a client of a server that a command starts in the clone, until the block ends.

    Raises:
        OwnFolderError: The server does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = clone.parent / "server.log"
    line = [part.replace("{port}", str(port)) for part in command]
    with log.open("w") as output:
        server = subprocess.Popen(
            line, cwd=clone, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client, server, log, FIRST_SECONDS)
            yield client
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def answer(clone: Path, environment: Mapping[str, str], picture: Path, *command: str) -> str:
    """Start a server by a command, and return the label that it gives a picture.

    Raises:
        OwnFolderError: The server does not start, or refuses the picture.
    """
    with served(clone, environment, *command) as client:
        return str(classified(client, picture)["label"])


def make_folder(clone: Path) -> None:
    """Copy the clone's example pictures of some classes into class folders."""
    for name in CLASSES:
        (clone / "DATA" / name).mkdir(parents=True)
        for path in sorted((clone / "examples").glob(f"{name}_*.png")):
            shutil.copy(path, clone / "DATA" / name)


@system_errors_as(OwnFolderError, FIX)
def go(work: Path, told: Callable[[Step], None] = lambda _: None) -> dict[str, Any]:
    """Go the whole way in an empty folder, and return the steps and the labels that both servers gave.

    Args:
        work: The folder. It is made, and must not be there.
        told: Gets each step when it is done.

    Raises:
        OwnFolderError: A command failed.
    """
    work.mkdir(parents=True)
    steps: list[Step] = []
    measured = stopwatch(steps, told)
    clone, ship = work / "clone", work / "clone" / "examples" / "ship_00.png"
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN and not name.startswith("SGN_")}
    environment = {**kept, "PATH": f"{clone / '.venv' / 'bin'}:{os.environ.get('PATH', os.defpath)}"}
    act = partial(run, clone, environment)
    ask = partial(answer, clone, environment, ship)

    measured("git clone", "git clone REPOSITORY", lambda: run(work, kept, "git", "clone", "-q", str(ROOT), "clone"))
    labels = {"bundled": measured("make serve", "make serve", lambda: ask("make", "serve", "PORT={port}"))}
    make_folder(clone)
    extras = ("pip", "install", "-q", "-c", "constraints.txt", "-e", ".[train,export]")
    commands: dict[str, Sequence[str]] = {
        "install the rest": ("python", "-m", *extras),
        "train": ("sgn", "train", "--data-root", "DATA", *TRAINING),
        "judge": ("sgn", "judge", "--ckpt", "runs/mine/model.safetensors", "--data-root", "DATA", "--attacks", "fgsm"),
        "export": ("sgn", "export", "--ckpt", "runs/mine/model.safetensors", "--onnx", "mine.onnx"),
    }
    for name, command in commands.items():
        measured(name, shlex.join(command), partial(act, *command))
    serve = ("sgn", "serve", "--model", "mine.onnx")
    labels["own"] = measured("serve", shlex.join(serve), lambda: ask(*serve, "--port", "{port}"))
    python = subprocess.run(
        ["python", "-c", "import platform; print(platform.python_version())"],
        cwd=clone, env=environment, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    return {
        "git_commit": git_commit(clone),
        "python": python,
        "steps": [asdict(step) for step in steps],
        "labels": labels,
    }


def steps_table(result: Mapping[str, Any]) -> str:
    """Return the steps with their time as Markdown."""
    lines = [[step["name"], f"`{step['command']}`", f"{step['seconds']:.0f}"] for step in result["steps"]]
    return table(["step", "command", "seconds"], lines, "llr")


def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = command_parser("release.install", __doc__)
    parser.add_argument("--work", type=Path, required=True, help="a new folder for the clone and its environment")
    add_out(parser, RESULT)
    options = parser.parse_args(command_line)
    given = sys.argv[1:] if command_line is None else command_line
    try:
        check_writable(options.out)
        result = go(options.work.resolve(), lambda step: say(str(step)))
        about = {
            "command": shlex.join(["python", "-m", "release.install", *given]),
            "processor": processor(),
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[2], 1),
        }
        write_result(options.out, about | result)
    except TrainingError as error:
        say(f"error: {error}")
        return error.exit_status
    print(steps_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
