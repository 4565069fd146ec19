"""Compare the OpenAPI document with the answers: schemathesis generates requests, good and bad."""

import subprocess
import sys
from pathlib import Path

import pytest
from starlette.routing import Route

from sgn_serve.api.classify import Api
from sgn_serve.api.inference_protocol import InferenceProtocol
from sgn_serve.api.openapi.document import METHODS
from sgn_serve.api.operations import Operations
from sgn_serve.api.page import Page
from sgn_serve.serving.predictor import PredictorSlot
from sgn_serve.serving.reloading import Reloader

EXAMPLES = 10


@pytest.mark.thorough
def test_every_answer_is_as_described(server, tmp_path):
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{server.url}/docs.json", "--no-color"]
    options = ["--max-examples", str(EXAMPLES), "--seed", "1", "--request-timeout", "60", "--checks", "all"]
    # The document cannot say that bytes are a picture, nor that a tensor has as many numbers as its shape says. A
    # request that it allows may be refused.
    options += ["--exclude-checks", "positive_data_acceptance"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Traceback" not in server.log.read_text()


def test_every_operation_tells_what_any_request_may_be_answered(app_client):
    document = app_client.get("/docs.json").json()

    def header(answer, name):
        component = answer["headers"][name]["$ref"].rsplit("/", 1)[1]
        return document["components"]["headers"][component]

    for path, operations in document["paths"].items():
        for method in METHODS & operations.keys():
            answers = operations[method]["responses"]
            assert {"400", "408", "413", "431", "503"} <= answers.keys(), path
            assert all(header(answer, "X-Request-ID")["required"] for answer in answers.values()), path
            assert header(answers["503"], "Retry-After")["schema"]["type"] == "integer"


def test_every_path_is_described(app_client):
    described = app_client.get("/docs.json").json()["paths"]
    hidden = {"/docs.json", "/schema.json", "/ui/", "/docs"}
    serving = PredictorSlot()
    routes = [
        *Api(serving).routes(),
        *InferenceProtocol(serving, lambda: True).routes(),
        *Operations(serving, Reloader(serving)).routes(),
        *Page().routes(),
    ]
    ours = set()
    for route in routes:
        assert isinstance(route, Route)
        if route.path not in hidden:
            ours.add((route.path, "post" if "POST" in (route.methods or ()) else "get"))
    told = {(path, method) for path in described for method in described[path] if method != "parameters"}
    assert told - ours == {(path, "get") for path in ("/healthz", "/livez", "/readyz")}
    assert ours <= told
