"""One real server with a tiny network for all tests that only ask it things."""

from collections.abc import Iterator

import httpx
import pytest

from tests.sgn_serve.server import Server, running_server
from tests.sgn_serve.tiny_graph import save_tiny_graph

MAX_BYTES = 100_000
RECEIVE_SECONDS = 5


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    model = save_tiny_graph(home / "tiny.onnx")
    limits = {"SGN_MAX_BYTES": str(MAX_BYTES), "SGN_MAX_PIXELS": "10000", "SGN_MAX_IMAGES": "8"}
    with running_server(
        home, SGN_MODEL=str(model), SGN_TOP_K="2", SGN_RECEIVE_SECONDS=str(RECEIVE_SECONDS), **limits
    ) as started:
        yield started


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened
