import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sgn_serve.process import confinement
from sgn_serve.process.confinement import Confinement, landlock_version
from tests.sgn_serve.decoder_processes.test_decoder import FORBIDDEN, LARGE, SMALL

LINUX = sys.platform.startswith("linux")


def run(project_root: Path, program: str) -> str:
    """Return what a new Python prints that runs a program."""
    begin = "import os, socket, sys\nfrom sgn_serve.process import confinement\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + program], cwd=project_root, stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert done.returncode == 0
    return done.stdout


def test_it_tells_what_is_active() -> None:
    assert str(Confinement(7, True, True)) == "Landlock (ABI 7), seccomp, a limit of memory"
    assert str(Confinement(0, False, False)) == "no Landlock, no seccomp, no limit of memory"
    assert Confinement(7, True, True).means() == ["landlock", "seccomp", "memory"]
    assert Confinement(0, False, True).means() == ["memory"]


@pytest.mark.skipif(not LINUX, reason="only Linux enforces it")
def test_memory_is_limited_to_what_there_is_and_some_more(project_root: Path) -> None:
    program = """
assert confinement.limit_memory(64 << 20)
bytearray(32 << 20)
try:
    bytearray(96 << 20)
except MemoryError:
    print("refused")
"""
    assert run(project_root, program) == "refused\n"


def test_a_lower_limit_of_memory_stays(project_root: Path) -> None:
    lower = 1 << 33
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, ({lower}, {lower}))
confinement.limit_memory(1 << 40)
print(resource.getrlimit(resource.RLIMIT_AS)[1])
"""
    assert run(project_root, program) == f"{lower}\n"


@pytest.mark.skipif(not landlock_version(), reason="the kernel has no Landlock")
def test_landlock_alone_denies_files(project_root: Path) -> None:
    program = """
confinement._prctl(38, 1)
assert confinement.deny_files_and_network() == confinement.landlock_version()
for attempt in (lambda: open("/etc/hostname"), lambda: os.listdir("/"), lambda: open("/tmp/x", "w")):
    try:
        attempt()
    except PermissionError as error:
        print(error.errno)
"""
    assert run(project_root, program) == "13\n" * 3


@pytest.mark.skipif(landlock_version() < 4, reason="the kernel's Landlock knows no TCP")
def test_landlock_alone_denies_tcp(project_root: Path) -> None:
    program = """
listener = socket.create_server(("127.0.0.1", 0))
confinement._prctl(38, 1)
assert confinement.deny_files_and_network() == confinement.landlock_version()
address = listener.getsockname()
for attempt in (lambda one: one.bind(("127.0.0.1", 0)), lambda one: one.connect(address)):
    try:
        attempt(socket.socket())
    except PermissionError as error:
        print(error.errno)
"""
    assert run(project_root, program) == "13\n" * 2


@pytest.mark.skipif(not LINUX, reason="only Linux has it")
def test_seccomp_alone_denies_files_sockets_and_processes(project_root: Path) -> None:
    program = """
import mmap
confinement._prctl(38, 1)
assert confinement.filter_system_calls()
data = bytearray(1 << 24)
for attempt in (
    lambda: open("/etc/hostname"),
    socket.socket,
    os.fork,
    lambda: os.kill(os.getppid(), 0),
    lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
):
    try:
        attempt()
    except PermissionError as error:
        print(error.errno)
sys.stdout.flush()
os._exit(0)
"""
    assert run(project_root, program) == "1\n" * 5


def test_where_the_machine_is_unknown_there_is_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert not confinement.filter_system_calls()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0
    with open(os.devnull) as file:
        assert file.fileno() > 0


@pytest.mark.skipif(not LINUX, reason="only Linux limits memory")
def test_resources_are_bound_and_never_raised(project_root: Path) -> None:
    program = """
import resource
confinement.bound_resources(100, None)
confinement.bound_resources(200, 64 << 20)
print(resource.getrlimit(resource.RLIMIT_CPU), resource.getrlimit(resource.RLIMIT_CORE))
print(open("/proc/self/oom_score_adj").read().strip())
try:
    bytearray(100 << 20)
except MemoryError:
    print("no memory")
"""
    assert run(project_root, program) == "(100, 100) (0, 0)\n1000\nno memory\n"


@pytest.mark.skipif(not LINUX, reason="only Linux filters system calls")
@pytest.mark.parametrize("threads", [False, True])
def test_threads_start_only_where_they_may_and_processes_never(project_root: Path, threads: bool) -> None:
    program = f"""
import threading
if not confinement.confine(64 << 20, threads={threads}).seccomp:
    print("no seccomp")
    raise SystemExit
try:
    thread = threading.Thread(target=lambda: print("thread"))
    thread.start()
    thread.join()
except RuntimeError:
    print("no thread")
try:
    os.fork()
    print("process")
except OSError:
    print("no process")
sys.stdout.flush()
os._exit(0)
"""
    said = run(project_root, program).split("\n")
    assert said in (["no seccomp", ""], ["thread" if threads else "no thread", "no process", ""])


@pytest.mark.skipif(not LINUX or os.uname().machine != "x86_64", reason="the container's filter is that of x86-64")
def test_nothing_is_missing_under_the_filter_of_a_default_container(project_root: Path) -> None:
    program = """
import asyncio
import logging
from contextlib import suppress
from sgn_serve.pictures.errors import PictureRefused
from tests.sgn_serve.decoder_processes.test_decoder import FORBIDDEN, running, value
from tests.sgn_serve.process.container_filter import confine_as_a_container

async def main():
    async with running() as decoder:
        print(",".join(decoder.small.confinement.means()), ",".join(decoder.large.confinement.means()))
        print(await value(decoder, "well"), await value(decoder, "large well"))
        for command in FORBIDDEN:
            with suppress(PictureRefused):
                await value(decoder, command)
        print(sum("Operation not permitted" in line for line in said))

said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("bentoml.sgn_serve").addHandler(handler)
confine_as_a_container()
asyncio.run(main())
"""
    means = ",".join(Confinement(landlock_version(), True, True).means())
    assert run(project_root, program) == f"{means} {means}\n{SMALL} {LARGE}\n{len(FORBIDDEN)}\n"
