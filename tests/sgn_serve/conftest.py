"""A server with a tiny network, and the same application without a server, for all tests that only ask them things."""

from collections.abc import Iterator

import httpx
import pytest
from starlette.testclient import TestClient

from sgn_serve.settings import Settings
from tests.sgn_serve.server import Server, application_client, running_server
from tests.sgn_serve.tiny_graph import save_tiny_graph

MAX_BYTES = 100_000
RECEIVE_SECONDS = 5


LIMITS = {
    "SGN_TOP_K": "2",
    "SGN_RECEIVE_SECONDS": str(RECEIVE_SECONDS),
    "SGN_MAX_BYTES": str(MAX_BYTES),
    "SGN_MAX_PIXELS": "10000",
    "SGN_MAX_IMAGES": "8",
}
"""Settings of both, small enough to be reached."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    model = save_tiny_graph(home / "tiny.onnx")
    with running_server(home, SGN_MODEL=str(model), **LIMITS) as started:
        yield started


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="session")
def app_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    model = save_tiny_graph(tmp_path_factory.mktemp("app") / "tiny.onnx")
    with application_client(Settings.from_environment({"SGN_MODEL": str(model), **LIMITS})) as opened:
        yield opened
