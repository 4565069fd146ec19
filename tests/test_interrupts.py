"""Ctrl-C while a command starts is quiet: one line, exit status 130, no traceback. Every command is found and tried."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.service.server import free_port
from tests.sgn_serve.server import serve_environment
from tests.sgn_serve.tiny_graph import save_tiny_graph

ROOT = Path(__file__).parents[1]
PACKAGES = ("benchmarks", "deploy", "docs", "export", "release", "sgn", "sgn_serve", "training")

PLANTED = """
import os, signal, sys

class Interrupt:
    # Python asks it for every module that is imported. It sends SIGINT at the wanted import after our handler is in
    # place, or, where a package sets none, soon after that package was asked for.
    imports = since_package = 0

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["PACKAGES"].split():
            Interrupt.since_package = max(1, Interrupt.since_package)
        elif Interrupt.since_package:
            Interrupt.since_package += 1
        handler = signal.getsignal(signal.SIGINT)
        if getattr(handler, "__module__", "") == "sgn_serve.common.interrupts":
            Interrupt.imports += 1
        if Interrupt.imports == int(os.environ["MOMENT"]) or Interrupt.since_package - Interrupt.imports > 20:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

if os.getppid() == int(os.environ["PARENT"]):  # not in the processes that the command starts
    sys.meta_path.insert(0, Interrupt())
"""

BEFORE = """
import atexit, os, signal, sys

seen = []

class Before:
    # It notes what is imported after a package of ours is asked for and before our handler is in place, and ends the
    # process then: what is imported later takes seconds.
    def find_spec(self, name, path=None, target=None):
        ours = name.partition(".")[0] in os.environ["PACKAGES"].split()
        if getattr(signal.getsignal(signal.SIGINT), "__module__", "") == "sgn_serve.common.interrupts":
            print("before:", *seen, flush=True)
            os._exit(0)
        if seen or ours:
            seen.append(name)

if os.getppid() == int(os.environ["PARENT"]):
    sys.meta_path.insert(0, Before())
    atexit.register(lambda: print("before:", *seen))
"""


def commands() -> list[str]:
    """Return every module that can be run: __main__.py files, and those that look whether they are __main__."""
    found = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            if file.name == "__main__.py":
                found.append(name.removesuffix(".__main__"))
            elif _looks_whether_it_is_main(file):
                found.append(name)
    return found


def _looks_whether_it_is_main(file: Path) -> bool:
    tests = (node.test for node in ast.parse(file.read_text()).body if isinstance(node, ast.If))
    return any(ast.unparse(test) == "__name__ == '__main__'" for test in tests)


def interrupted(folder: Path, arguments: list[str], planted: str = PLANTED, moment: int = 1) -> tuple[int, str]:
    """Run a command that gets SIGINT, and return its exit status and all that it printed."""
    (folder / "sitecustomize.py").write_text(planted)
    environment = {
        **serve_environment(folder),
        "PYTHONPATH": str(folder),
        "PACKAGES": " ".join(PACKAGES),
        "MOMENT": str(moment),
        "PARENT": str(os.getpid()),
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_commands_are_found():
    found = commands()
    assert {"training", "training.evaluate", "export", "benchmarks.service", "release.bundle", "sgn_serve.check"} <= {
        *found
    }
    assert {name.partition(".")[0] for name in found} == {*PACKAGES}


@pytest.mark.parametrize("command", commands())
def test_ctrl_c_at_the_first_import_is_quiet(tmp_path, command):
    assert interrupted(tmp_path, ["-m", command, "--help"]) == (130, "interrupted\n")


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_slow_is_imported_before_ctrl_c_is_quiet(tmp_path, package):
    command = next(name for name in commands() if name.partition(".")[0] == package)
    _, printed = interrupted(tmp_path, ["-m", command, "--help"], planted=BEFORE)
    seen = printed.rpartition("before: ")[2].split()
    assert "sgn_serve.common.interrupts" in seen
    assert not {"typing", "threading", "contextlib", "re"} & {*seen}


CHECKPOINT = "sgn_serve/bundled/model.safetensors"
"""A file that is there: one that is not would be refused before the imports."""


@pytest.mark.parametrize("moment", [40, 200])
@pytest.mark.parametrize(
    "arguments",
    [
        ["training", "--data-root=docs", "--dataset=cifar10"],
        ["sgn", "train", "--data-root=docs", "--dataset=cifar10"],
        ["training.evaluate", f"--ckpt={CHECKPOINT}", "--data-root=docs", "--report=nowhere"],
        ["sgn_serve.check"],
    ],
)
def test_ctrl_c_in_the_midst_of_the_imports_is_quiet(tmp_path, arguments, moment):
    assert interrupted(tmp_path, ["-m", *arguments], moment=moment) == (130, "interrupted\n")


@pytest.mark.parametrize("moment", [40, 400])
def test_ctrl_c_in_the_midst_of_the_exports_imports_is_quiet(tmp_path, moment):
    status, printed = interrupted(
        tmp_path, ["-m", "export", f"--ckpt={CHECKPOINT}", f"--onnx={tmp_path / 'x'}"], moment=moment
    )
    assert (status, printed) == (130, "interrupted\n")


@pytest.mark.parametrize("moment", [1, 40, 400])
def test_ctrl_c_is_quiet_in_the_console_script_too(tmp_path, moment):
    script = tmp_path / "sgn"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom sgn.command import main\nsys.exit(main())\n"
    )
    arguments = [str(script), "train", "--data-root=docs", "--dataset=cifar10"]
    assert interrupted(tmp_path, arguments, moment=moment) == (130, "interrupted\n")


@pytest.mark.parametrize("moment", [300, 600])
def test_ctrl_c_while_the_server_starts_is_quiet(tmp_path, moment):
    arguments = ["-m", "sgn_serve", "--port", str(free_port())]
    assert interrupted(tmp_path, arguments, moment=moment) == (130, "interrupted\n")


def test_ctrl_c_while_bentoml_serve_loads_the_service_is_quiet(tmp_path):
    arguments = ["-m", "bentoml", "serve", "--port", str(free_port())]
    assert interrupted(tmp_path, arguments, moment=20) == (130, "interrupted\n")


IN_TRIAL = """
import os, signal, sys, time

if "sgn_serve" in sys.orig_argv:
    sleep = time.sleep

    def interrupt_and_sleep(seconds):
        if "sgn_serve.serving.trial" in sys.modules:
            os.kill(os.getpid(), signal.SIGINT)
        sleep(seconds)

    time.sleep = interrupt_and_sleep
"""


def test_ctrl_c_while_the_model_is_tried_is_quiet(tmp_path):
    arguments = ["-m", "sgn_serve", "--port", str(free_port())]
    assert interrupted(tmp_path, arguments, IN_TRIAL) == (130, "interrupted\n")


def test_ctrl_c_while_the_workers_start_ends_the_server(tmp_path):
    command = [sys.executable, "-m", "sgn_serve", "--port", str(free_port())]
    environment = serve_environment(tmp_path, SGN_MODEL=str(save_tiny_graph(tmp_path / "tiny.onnx")))
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        printed = []
        for line in server.stdout:
            printed.append(line)
            if "/ui" in line:
                server.send_signal(signal.SIGINT)
        assert server.wait() == 0
    assert not [line for line in printed if not line.startswith("{")], "no traceback, nothing but log lines"


IN_MAIN = """
import argparse, os, signal

def parse_args(*arguments, **options):
    os.kill(os.getpid(), signal.SIGINT)

argparse.ArgumentParser.parse_args = parse_args
"""


def test_ctrl_c_before_a_command_handles_it_is_quiet(tmp_path):
    status, printed = interrupted(tmp_path, ["-m", "deploy.bento_requirements", "cpu", str(tmp_path / "out")], IN_MAIN)
    assert (status, printed) == (130, "interrupted\n")


HANDLED = """
import os, signal, sys
import training

def main():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        print("handled")
    return 7

sys.argv[0] = "-m"
from sgn_serve.common.interrupts import end_quietly
end_quietly()
sys.exit(main())
"""


def test_a_command_that_runs_handles_ctrl_c_itself(tmp_path):
    assert interrupted(tmp_path, ["-c", HANDLED], "") == (7, "handled\n")


SWALLOWED = """
import sys
sys.argv[0] = "-m"
import training
try:
    import swallowing
finally:
    print("went on")
"""


def test_a_library_that_swallows_exceptions_while_it_is_imported_does_not_keep_a_command_alive(tmp_path):
    (tmp_path / "swallowing.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\n"
    )
    assert interrupted(tmp_path, ["-c", SWALLOWED], "") == (130, "interrupted\n")


def test_a_program_that_imports_a_package_keeps_its_own_ctrl_c(tmp_path):
    program = "import signal, training\nprint(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert interrupted(tmp_path, ["-c", program], "") == (0, "True\n")
