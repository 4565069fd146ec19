"""Shared by all tests: where the project is, the devices, and how threads wait."""

import gc
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from tests.sgn_serve.server import Server

# Read when torch is first imported, by these processes and those that they start. Five lanes of tests share the cores,
# and the networks are tiny. A second thread gains nothing, and waiting for one that does not get a core costs up to ten
# times the work. So a lane has one thread, and threads do not spin while they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# AOTInductor's compiler is believed to know this processor's vector instructions. PyTorch would compile a library for
# each kind to find out, where its cache is empty. A compiler that does not know them fails the tests anyway.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
# The wrapper of its kernels is compiled without optimisation, which is faster. The kernels are compiled as ever.
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")


_LONG_FIXTURES = {"cluster", "fused_file", "grids", "kernels", "rehearsal", "site"}
"""Fixtures that compile, export, rehearse, start Ray, or build the documentation. What uses them is marked thorough."""


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what -m does not name
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _LONG_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.thorough)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak-seconds", type=float, default=600.0, help="how long tests marked slow put a server to work"
    )


@pytest.fixture(autouse=True, scope="session")
def few_collections() -> Iterator[None]:
    """Collect garbage rarely. Tracing makes so many objects that collections took a tenth of an export's time."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def one_tls_context() -> Iterator[None]:
    """Read the authorities' certificates once for all clients of httpx. It took 24 ms a client; no test speaks TLS."""
    if "httpx" not in sys.modules:  # after the collection: no test of this lane asks with it
        yield
        return
    import httpx
    from httpx._transports import default

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(default, "create_ssl_context", cache(httpx.create_ssl_context))
        yield


@pytest.fixture(scope="session")
def project_root() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> "torch.device":
    """The processor and, where there is one, a GPU."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that PyTorch can use")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def bundled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    """A server with the bundled model and the default settings, but for one thread, for all tests that only ask it."""
    from tests.sgn_serve.server import running_server

    with running_server(tmp_path_factory.mktemp("home"), SGN_THREADS="1") as server:
        yield server


@pytest.fixture(scope="session")
def warm_python() -> Iterator[Path]:
    """The program `python`, with the slowest imports made: see tests/warm_python.py."""
    from tests.warm_python import running_warm_python

    with running_warm_python() as program:
        yield program
