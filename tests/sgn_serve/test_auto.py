"""self_gradient=auto from the request to the answer: forms, JSON, /v2, the client, settings and metrics."""

import base64
import json

import httpx
import numpy as np
import pytest
from PIL import Image

from sgn_serve import Client
from sgn_serve.settings import Settings
from tests.sgn_serve.sample_pictures import encode
from tests.sgn_serve.server import application_client
from tests.sgn_serve.telemetry.test_metrics import change
from tests.sgn_serve.tiny_graph import save_tiny_graph

RED = encode(Image.fromarray(np.full((8, 8, 3), (250, 10, 10), np.uint8)))
GREY = encode(Image.fromarray(np.full((8, 8, 3), (120, 119, 118), np.uint8)))
"""A picture whose plain answer is clear, and one for which the block decides: it says blue."""
INFER = "/v2/models/self-gradient-network/infer"
AUTO = {"SGN_SELF_GRADIENT": "auto", "SGN_TOP_K": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_graph(tmp_path_factory.mktemp("auto") / "tiny.onnx", checkpoint={"auto_margin": 0.5})


@pytest.fixture(scope="module")
def auto_client(model):
    """The application with auto as its default."""
    with application_client(Settings.from_environment({"SGN_MODEL": str(model), **AUTO})) as opened:
        yield opened


def classify(client, picture, **data):
    answer = client.post("/classify", files={"image": picture}, data=data)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_clear_answer_takes_one_pass_and_another_one_two(auto_client):
    clear, unclear = (classify(auto_client, picture, self_gradient="auto") for picture in (RED, GREY))
    assert (clear["mode"], clear["self_gradient"], clear["label"]) == ("auto", False, "red")
    assert clear["plain"] is None
    assert clear["disagreement"] is None
    assert (unclear["mode"], unclear["self_gradient"], unclear["label"]) == ("auto", True, "blue")
    assert unclear["plain"]["label"] == "red"
    assert unclear["disagreement"] > 0


def test_auto_is_the_default_where_the_setting_says_so(auto_client):
    assert classify(auto_client, GREY) == classify(auto_client, GREY, self_gradient="AUTO")
    assert auto_client.get("/model").json()["default_mode"] == "auto"
    assert classify(auto_client, RED, self_gradient="on")["mode"] == "on"
    assert classify(auto_client, GREY, self_gradient="0")["mode"] == "off"


def test_several_pictures_and_json(auto_client):
    answer = auto_client.post("/classify_batch", files=[("images", RED), ("images", GREY)])
    assert [one["self_gradient"] for one in answer.json()["predictions"]] == [False, True]
    body = {"image": base64.b64encode(GREY).decode(), "self_gradient": "auto"}
    assert auto_client.post("/classify", json=body).json()["self_gradient"] is True


def test_metrics_count_the_pictures_and_their_second_passes(auto_client):
    def ask():
        for picture in (RED, GREY, RED):
            classify(auto_client, picture)
        classify(auto_client, GREY, self_gradient="true")

    risen = change(auto_client, ask)
    assert risen["sgn_auto_pictures_total", ()] == 3
    assert risen["sgn_auto_second_passes_total", ()] == 1
    assert risen["sgn_pictures_total", (("block", "off"),)] == 3
    assert risen["sgn_pictures_total", (("block", "on"),)] == 2
    stats = "/v2/models/self-gradient-network/stats"

    def inferences():
        return auto_client.get(stats).json()["model_stats"][0]["inference_count"]

    before = inferences()
    classify(auto_client, GREY)
    assert inferences() == before + 1, "one picture is one inference, however many passes it takes"


def infer(client, parameters, outputs=None, name="self-gradient-network"):
    images = np.stack([np.full((3, 8, 8), 0.5), np.zeros((3, 8, 8))]).astype(float)
    images[1, 0] = 1
    tensor = {"name": "image", "datatype": "FP32", "shape": [2, 3, 8, 8], "data": images.ravel().tolist()}
    asked = {"inputs": [tensor]}
    if parameters is not None:
        asked["parameters"] = parameters
    if outputs is not None:
        asked["outputs"] = [{"name": output} for output in outputs]
    return client.post(f"/v2/models/{name}/infer", content=json.dumps(asked))


def outputs_of(answer):
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return {output["name"]: np.reshape(output["data"], output["shape"]) for output in body["outputs"]}


def test_the_protocols_parameter(auto_client):
    answer = infer(auto_client, {"self_gradient": "auto"})
    assert answer.json()["parameters"] == {"mode": "auto", "self_gradient": "true,false"}
    auto = outputs_of(answer)
    both = infer(auto_client, {"self_gradient": True})
    assert "parameters" not in both.json()
    assert outputs_of(both).keys() == auto.keys()
    np.testing.assert_allclose(auto["logits"][0], outputs_of(both)["logits"][0], atol=1e-6)
    np.testing.assert_allclose(auto["logits"][1], outputs_of(both)["plain_logits"][1], atol=1e-6)
    np.testing.assert_allclose(outputs_of(infer(auto_client, None))["logits"], outputs_of(both)["logits"])


def test_the_protocols_second_name_follows_the_setting(auto_client, model):
    answer = infer(auto_client, None, name="self-gradient-network-image")
    assert answer.json()["parameters"]["self_gradient"] == "true,false"
    answer = infer(auto_client, {"self_gradient": True}, name="self-gradient-network-image")
    assert "parameters" not in answer.json()


@pytest.mark.parametrize(
    ("parameters", "outputs", "message"),
    [
        ({"self_gradient": "perhaps"}, None, "must be 'auto' or true"),
        ({"self_gradient": False}, None, "for the block off ask for 'plain_logits' only"),
        ({"self_gradient": [1, 2]}, None, "must be 'auto' or true"),
        ({"self_gradient": "auto"}, ["logits", "self_gradient"], "needs the second pass"),
    ],
)
def test_what_the_protocols_parameter_may_not_be(auto_client, parameters, outputs, message):
    answer = infer(auto_client, parameters, outputs)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_plain_logits_alone_take_one_pass_whatever_the_parameter(auto_client):
    answer = infer(auto_client, {"self_gradient": "auto"}, ["plain_logits"])
    assert list(outputs_of(answer)) == ["plain_logits"]
    assert "parameters" not in answer.json()


def test_a_network_without_a_threshold_refuses_auto(app_client):
    answer = app_client.post("/classify", files={"image": RED}, data={"self_gradient": "auto"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_auto")
    answer = infer(app_client, {"self_gradient": "auto"})
    assert (answer.status_code, answer.json()["code"]) == (400, "no_auto")
    assert app_client.get("/model").json()["auto"] is None


def test_a_network_without_a_block_refuses_auto_and_has_another_default(tmp_path):
    model = save_tiny_graph(tmp_path / "plain.onnx", block=False)
    with application_client(Settings.from_environment({"SGN_MODEL": str(model), **AUTO})) as client:
        assert classify(client, RED)["mode"] == "off"
        answer = client.post("/classify", files={"image": RED}, data={"self_gradient": "auto"})
        assert answer.json()["error"]["code"] == "no_block"


def test_the_setting_replaces_the_models_threshold(model):
    settings = {"SGN_MODEL": str(model), **AUTO, "SGN_AUTO_MARGIN": "0"}
    with application_client(Settings.from_environment(settings)) as client:
        assert classify(client, GREY)["self_gradient"] is False
        assert client.get("/model").json()["auto"] == {"margin": 0, "source": "setting", "measured": {}}


def test_the_client_asks_for_auto(auto_client):
    def handler(request):
        answer = auto_client.post(request.url.path, content=request.read(), headers=dict(request.headers))
        return httpx.Response(answer.status_code, content=answer.content)

    with Client("http://x", transport=httpx.MockTransport(handler)) as client:
        prediction = client.classify(GREY, self_gradient="auto")
        assert (prediction.mode, prediction.self_gradient) == ("auto", True)
        assert client.classify(GREY, self_gradient=False).mode == "off"


def test_the_description_of_the_api_names_auto(auto_client):
    document = auto_client.get("/docs.json").json()
    (option,) = [one for one in document["paths"]["/classify"]["post"]["parameters"] if one["name"] == "self_gradient"]
    assert "auto" in option["schema"]["enum"]
    assert option["schema"]["description"].endswith("default: auto, and false where the network has no block")
    assert document["components"]["schemas"]["Prediction"]["properties"]["mode"]["enum"] == ["on", "off", "auto"]
