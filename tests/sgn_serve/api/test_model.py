"""/model and /model/examples, and a graph without a block: by the application without a server."""

import json
import logging
import subprocess
import sys

import pytest
from PIL import Image

from sgn_serve.settings import Settings
from tests.sgn_serve.sample_examples import sample_examples
from tests.sgn_serve.sample_pictures import encode
from tests.sgn_serve.server import ROOT, application_client, serve_environment
from tests.sgn_serve.tiny_graph import save_tiny_graph

RED = encode(Image.new("RGB", (8, 8), (255, 0, 0)))


@pytest.fixture(scope="module")
def plain_graph(tmp_path_factory):
    return save_tiny_graph(tmp_path_factory.mktemp("plain") / "plain.onnx", block=False)


@pytest.fixture(scope="module")
def plain(plain_graph):
    """A client of a service with its default settings, and a graph without a block."""
    with application_client(Settings(model_path=plain_graph)) as client:
        yield client


def classify(client, **fields):
    return client.post("/classify", files={"image": RED}, data=fields)


def infer(client, model, *outputs):
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0.5] * 192}
    asked = {"inputs": [tensor], "outputs": [{"name": name} for name in outputs]} if outputs else {"inputs": [tensor]}
    return client.post(f"/v2/models/{model}/infer", json=asked)


def test_a_network_without_a_block_is_classified_with_as_it_is(plain):
    for fields in ({}, {"self_gradient": "false"}):
        answer = classify(plain, **fields).json()
        assert (answer["label"], answer["self_gradient"]) == ("red", False)
        assert (answer["plain"], answer["disagreement"], answer["suspicious"]) == (None, None, None)
    batch = plain.post("/classify_batch", files=[("images", RED), ("images", RED)]).json()
    assert [entry["self_gradient"] for entry in batch["predictions"]] == [False, False]


def test_the_block_of_a_network_without_one_cannot_be_asked_for(plain):
    refused = classify(plain, self_gradient="true")
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "no_block"
    assert refused.json()["error"]["message"] == (
        "the served network has no self-gradient block; leave self_gradient out, or send false"
    )
    assert plain.post("/explain", files={"image": RED}).json()["error"]["code"] == "no_gradient"


def test_a_network_without_a_block_in_the_inference_protocol(plain):
    name = "self-gradient-network"
    assert [output["name"] for output in plain.get(f"/v2/models/{name}").json()["outputs"]] == ["plain_logits"]
    assert [output["name"] for output in infer(plain, name).json()["outputs"]] == ["plain_logits"]
    assert [output["name"] for output in infer(plain, f"{name}-image").json()["outputs"]] == ["plain_logits"]
    refused = infer(plain, name, "logits")
    assert refused.status_code == 400
    assert "must be one of: plain_logits" in refused.json()["error"]


def test_the_card_of_a_network_without_a_block(plain):
    card = plain.get("/model").json()
    assert (card["has_block"], card["has_gradient"], card["block"]) == (False, False, None)
    assert card["defaults"] == {"self_gradient": False, "top_k": 5}
    assert card["limits"]["max_top_k"] == 1000
    assert card["examples"] == 0


def test_where_there_are_no_examples(plain):
    refused = plain.get("/model/examples")
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "no_examples"
    assert "python -m export --examples N" in refused.json()["error"]["message"]


def test_examples_are_found_by_the_graphs_name(tmp_path):
    graph = save_tiny_graph(tmp_path / "m.onnx")
    (tmp_path / "m.examples.json").write_text(json.dumps(sample_examples(3)))
    settings = Settings.from_environment({"SGN_MODEL": str(graph), "SGN_API_TOKEN": "a-secret-of-some-length"})
    with application_client(settings) as client:
        assert client.get("/model/examples").status_code == 401, "they are pictures of somebody's data"
        client.headers["authorization"] = "Bearer a-secret-of-some-length"
        assert client.get("/model").json()["examples"] == 3
        given = client.get("/model/examples")
        assert given.headers["content-type"] == "application/json"
        assert given.json() == sample_examples(3)
        described = client.get("/docs.json").json()["paths"]["/model/examples"]["get"]["responses"]
        assert described["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Examples")
        # Found and lost at a reload, although the graph is the same.
        (tmp_path / "m.examples.json").unlink()
        assert client.post("/admin/reload").json()["outcome"] == "swapped"
        assert client.get("/model").json()["examples"] == 0


def test_what_does_not_fit_is_told_once(tmp_path, caplog):
    graph = save_tiny_graph(tmp_path / "m.onnx")
    (tmp_path / "m.examples.json").write_text(json.dumps(sample_examples(checkpoint_sha256="f" * 64)))
    (tmp_path / "m.json").write_text("[]")
    with caplog.at_level(logging.WARNING), application_client(Settings(model_path=graph)) as client:
        notes = client.get("/model").json()["notes"]
    assert [note.split(":")[0] for note in notes] == ["m.json", "m.examples.json"]
    told = [record.getMessage() for record in caplog.records]
    assert [told.count(note) for note in notes] == [1, 1]


def test_the_check_tells_a_missing_block_and_what_does_not_fit(plain_graph, tmp_path):
    graph = tmp_path / "m.onnx"
    graph.write_bytes(plain_graph.read_bytes())
    (tmp_path / "m.json").write_text("[]")
    environment = serve_environment(tmp_path, SGN_MODEL=str(graph))
    done = subprocess.run(
        [sys.executable, "-m", "sgn_serve.check"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "without self-gradient block" in done.stdout
    (told,) = done.stderr.splitlines()
    assert told.startswith("warning: m.json: holds no figures of a graph, so no figures are shown; take it away")
