"""A server for the tests of what stands before it and of what asks it for figures."""

from collections.abc import Iterator

import pytest

from tests.sgn_serve.server import Server, running_server
from tests.sgn_serve.tiny_graph import save_tiny_graph

KEPT = "/kept"
"""The path that its proxy leaves in front of every other."""


@pytest.fixture(scope="session")
def deployed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("deployed")
    settings = {
        "SGN_MODEL": str(save_tiny_graph(home / "tiny.onnx")),
        "SGN_TRUSTED_PROXIES": "127.0.0.1",
        "SGN_ROOT_PATH": KEPT,
        "SGN_MAX_DISAGREEMENT": "0",
    }
    with running_server(home, **settings) as server:
        yield server
