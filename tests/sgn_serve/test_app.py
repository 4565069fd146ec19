"""The application's answers, without a server around it: JSON, headers and settings."""

from io import BytesIO

import numpy as np
import onnx
import pytest
from PIL import Image, ImageColor
from starlette.testclient import TestClient

from sgn_serve.app import State, create_app
from sgn_serve.http.connections import NEW_CONNECTION
from sgn_serve.pictures.decoding import decode
from sgn_serve.pictures.formats import AVAILABLE
from sgn_serve.settings import Settings
from tests.sgn_serve.asking import RED, check_error, classify
from tests.sgn_serve.bad_graphs import nan_for_black
from tests.sgn_serve.sample_pictures import encode, noise, png
from tests.sgn_serve.server import application_client
from tests.sgn_serve.tiny_graph import SHA256, save_tiny_graph


@pytest.fixture
def client(app_client):
    """The application itself, under the name that the tests of a running server use."""
    return app_client


def test_an_answer(client):
    answer = classify(client)
    assert answer["label"] == "red"
    assert answer["index"] == 0
    assert answer["self_gradient"] is True
    assert answer["model"] == SHA256
    assert [entry["label"] for entry in answer["top_k"]] == ["red", "blue"]
    assert answer["top_k"][0]["probability"] == answer["probability"]
    assert answer["plain"]["label"] == "red"
    assert answer["plain"]["probability"] > answer["probability"], "the block turns the picture bluer"
    assert 0 < answer["disagreement"] < 0.1
    assert answer["suspicious"] is None


@pytest.mark.parametrize("text", ["false", "False", "0", "off", "no"])
def test_the_block_switched_off_in_the_form(client, text):
    answer = classify(client, self_gradient=text)
    assert answer["self_gradient"] is False
    assert answer["plain"] is None
    assert answer["disagreement"] is None
    assert answer["probability"] == classify(client)["plain"]["probability"]


def test_the_block_switched_off_in_the_query(client):
    response = client.post("/classify?self_gradient=false", files={"image": RED})
    assert response.json()["self_gradient"] is False
    both = client.post("/classify?self_gradient=false", files={"image": RED}, data={"self_gradient": "true"})
    assert both.json()["self_gradient"] is True, "the form counts"
    check_error(client.post("/classify?top_k=0", files={"image": RED}, data={"top_k": "1"}), 400, "bad_top_k", "'0'")
    for query in ("x" * 5000, "top_k=" + "x" * 5000, "self_gradient=" + "x" * 5000):
        answer = client.post(f"/classify?{query}", files={"image": RED})
        assert answer.status_code == 400
        assert len(answer.content) < 500, "a message repeats 100 characters at most"


def test_how_many_classes_are_listed(client):
    assert len(classify(client, top_k="1")["top_k"]) == 1
    assert len(classify(client, top_k="3")["top_k"]) == 3
    assert len(classify(client, top_k="1000")["top_k"]) == 3, "all there are"
    assert len(client.post("/classify?top_k=3", files={"image": RED}).json()["top_k"]) == 3


def test_several_pictures_are_answered_or_refused_each_on_its_own_in_order(client):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    files = [encode(Image.new("RGB", (8, 8), colour)) for colour in colours]
    sent = [
        files[0],
        b"no picture",
        files[1],
        b"",
        files[2],
        encode(Image.fromarray(noise()))[:100],
        png(50_000, 50_000, 8, 2, b""),
    ]
    response = client.post(
        "/classify_batch", files=[("images", file) for file in sent], data={"top_k": "1", "self_gradient": "false"}
    )
    assert response.status_code == 200, response.text
    answers = response.json()["predictions"]
    told = [answer["error"]["code"] if "error" in answer else answer["label"] for answer in answers]
    assert told == ["red", "not_an_image", "green", "not_an_image", "blue", "damaged_image", "too_many_pixels"]
    alone = classify(client, files[1], top_k="1", self_gradient="false")
    assert answers[2] == alone
    assert {answer["error"]["request_id"] for answer in answers if "error" in answer} == {
        response.headers["x-request-id"]
    }


def test_an_answer_that_is_not_finite_is_none(tmp_path):
    """No trial can send every picture. A class that follows from NaN would look like any other."""
    path = save_tiny_graph(tmp_path / "tiny.onnx")
    model = onnx.load(path)
    nan_for_black(model)
    onnx.save(model, path)
    black = encode(Image.new("RGB", (8, 8)))
    tensor = {"name": "image", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0.0] * 192}
    with application_client(Settings.from_environment({"SGN_MODEL": str(path)})) as client:
        for self_gradient in ("true", "false"):
            asked = {"self_gradient": self_gradient}
            refused = client.post("/classify", files={"image": black}, data=asked)
            check_error(refused, 500, "internal_error", "not finite; the service needs another model")
            several = client.post("/classify_batch", files=[("images", RED), ("images", black)], data=asked)
            first, second = several.json()["predictions"]
            assert (first["label"], second["error"]["code"]) == ("red", "internal_error")
        refused = client.post("/v2/models/self-gradient-network/infer", json={"inputs": [tensor]})
        assert (refused.status_code, refused.json()["code"]) == (500, "internal_error")


def test_no_more_pictures_in_one_request_than_configured(client):
    assert len(client.post("/classify_batch", files=[("images", RED)] * 8).json()["predictions"]) == 8
    check_error(client.post("/classify_batch", files=[("images", RED)] * 9), 400, "too_many_images", "send 8 at most")
    check_error(
        client.post("/classify_batch", files={"image": RED}), 400, "unknown_field", "or one as 'image' to /classify"
    )
    check_error(client.post("/classify_batch", files={"images": (None, "text")}), 400, "not_a_file", "-F images=@x.png")


def test_a_request_keeps_its_id(client):
    def named(**headers):
        return client.post("/classify", files={"image": RED}, headers=headers).headers["x-request-id"]

    assert named(**{"x-request-id": "abc-123"}) == "abc-123"
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert named(traceparent=f"00-{trace}-00f067aa0ba902b7-01") == trace
    assert named() != named()
    assert len(named(**{"x-request-id": 'a b"c'})) == 32, "nothing that could break a log line"
    assert client.get("/nowhere", headers={"x-request-id": "x1"}).json()["error"]["request_id"] == "x1"
    assert client.get("/model", headers={"x-request-id": "x2"}).headers["x-request-id"] == "x2"


def test_any_format_and_size(client):
    for file_format in AVAILABLE:
        assert classify(client, encode(Image.new("RGB", (31, 57), "blue"), file_format))["label"] == "blue"


def test_a_heat_map_over_the_picture(client):
    response = client.post("/explain", files={"image": encode(Image.new("RGB", (80, 40), "red"))})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    drawn = Image.open(BytesIO(response.content))
    assert drawn.size == (256, 256)
    check_error(client.post("/explain", files={"image": b"x"}), 415, "not_an_image", "PNG")
    check_error(client.post("/explain", files={"image": RED}, data={"top_k": "1"}), 400, "unknown_field", "'top_k'")
    check_error(client.post("/explain?top_k=1", files={"image": RED}), 400, "unknown_parameter", "no query parameters")


def test_a_picture_as_the_network_sees_it(client):
    sent = encode(Image.fromarray(noise()).resize((31, 57)))
    response = client.post("/preprocess", files={"image": sent})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    seen = np.asarray(Image.open(BytesIO(response.content)))
    np.testing.assert_array_equal(seen.transpose(2, 0, 1) / np.float32(255), decode(sent, (8, 8), 10_000))
    first, second = (
        client.post("/classify", files={"image": file}, data={"top_k": "3"}).json() for file in (sent, response.content)
    )
    assert first == second
    check_error(client.post("/preprocess", files={"image": b"x"}), 415, "not_an_image", "PNG")
    check_error(client.post("/preprocess?top_k=1", files={"image": RED}), 400, "unknown_parameter", "no query")


@pytest.mark.parametrize(
    ("resize", "left", "top"), [("stretch", "red", "blue"), ("crop", "red", "red"), ("pad", "white", "blue")]
)
def test_a_picture_is_seen_stretched_cropped_or_padded_as_the_model_says(tmp_path, resize, left, top):
    model = save_tiny_graph(tmp_path / "plain.onnx", block=False, image_size=(60, 80), checkpoint={"resize": resize})
    tall = Image.new("RGB", (60, 600), "blue")
    tall.paste("red", (0, 100, 60, 500))
    with application_client(Settings(model_path=model)) as client:
        seen = Image.open(BytesIO(client.post("/preprocess", files={"image": encode(tall)}).content))
    assert seen.size == (80, 60)
    assert (seen.getpixel((0, 30)), seen.getpixel((40, 0))) == (ImageColor.getrgb(left), ImageColor.getrgb(top))


def test_the_model_card(client):
    card = client.get("/model").json()
    assert card["model"] == SHA256
    assert card["classes"] == ["red", "green", "blue"]
    assert card["preprocessing"]["height"] == 8
    assert card["measured"] is None, "nothing is invented"


def test_the_api_describes_itself(client):
    operation = client.get("/docs.json").json()["paths"]["/classify"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["image"]
    assert set(form["properties"]) == {"image", "self_gradient", "top_k"}
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Prediction")


def test_settings_and_a_network_without_a_block(tmp_path):
    model = save_tiny_graph(tmp_path / "plain.onnx", block=False)
    with application_client(Settings(model_path=model)) as client:
        answer = classify(client)
        assert answer["self_gradient"] is False
        response = client.post("/classify", files={"image": RED}, data={"self_gradient": "true"})
        check_error(response, 400, "no_block", "no self-gradient block")
        check_error(client.post("/explain", files={"image": RED}), 400, "no_gradient", "self-gradient")


def test_the_environment_sets_the_flags_default_the_limit_and_the_background(tmp_path):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    settings = {"SGN_MODEL": str(model), "SGN_SELF_GRADIENT": "false", "SGN_MAX_DISAGREEMENT": "0.001"}
    with application_client(Settings.from_environment({**settings, "SGN_BACKGROUND": "#0000ff"})) as client:
        assert classify(client)["self_gradient"] is False
        assert classify(client)["suspicious"] is None
        answer = classify(client, self_gradient="true")
        assert answer["self_gradient"] is True
        assert answer["suspicious"] is (answer["disagreement"] > 0.001) is True
        transparent = encode(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
        assert classify(client, transparent)["label"] == "blue"


def test_the_formats_that_are_taken_are_told_everywhere(tmp_path):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    with application_client(Settings(model_path=model, formats=("PNG", "TGA"))) as client:
        for file_format in ("PNG", "TGA"):
            classify(client, encode(Image.new("RGB", (8, 8), "red"), file_format))
        gif = client.post("/classify", files={"image": encode(Image.new("RGB", (8, 8), "red"), "GIF")})
        check_error(gif, 415, "not_an_image", "none of the accepted formats (PNG, TGA)")
        told = client.get("/model").json()["preprocessing"]
        assert told["formats"] == ["PNG", "TGA"]
        assert {".png", ".tga"} <= {*told["suffixes"]}
        assert ".jpg" not in told["suffixes"]
        route = client.get("/docs.json").json()["paths"]["/classify"]["post"]
        assert route["description"].startswith("Formats: PNG, TGA; at most")
        encoding = route["requestBody"]["content"]["multipart/form-data"]["encoding"]
        assert encoding["image"]["contentType"] == "image/png, image/x-tga"


def test_pictures_are_classified_as_the_array_that_they_hold(client):
    pixels = noise(8, 8, seed=3)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    logits = 10 * (pixels / 255).mean(axis=(0, 1))
    probabilities = np.exp(logits) / np.exp(logits).sum()
    answer = classify(client, file.getvalue(), self_gradient="false")
    assert answer["index"] == probabilities.argmax()
    assert answer["probability"] == pytest.approx(probabilities.max(), abs=1e-5)


def test_a_request_that_no_route_matches_goes_to_the_fallback(tmp_path):
    async def fallback(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    settings = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"))
    with application_client(settings, fallback=fallback) as client:
        answer = client.get("/livez")
        assert (answer.text, len(answer.headers["x-request-id"])) == ("/livez", 32)
        assert client.get("/ui/").url.path == "/ui"
        assert client.get("/model/").text == "/model/", "no redirects that hide what a client asked for"
        assert client.get("/model").json()["model"] == SHA256


def test_middleware_stands_in_the_order_of_its_list(tmp_path):
    """A refusal has an id and the headers for other origins; a guess of a token counts towards the rate limit."""
    settings = Settings.from_environment(
        {
            "SGN_MODEL": str(save_tiny_graph(tmp_path / "tiny.onnx")),
            "SGN_API_TOKEN": "0123456789abcdef",
            "SGN_RATE_LIMIT": "0.01",
            "SGN_RATE_BURST": "1",
            "SGN_MAX_BYTES": "10",
            "SGN_CORS_ORIGINS": "https://example.org",
        }
    )
    with application_client(settings) as client:
        answers = [
            client.post("/classify", content=b"x" * 11, headers={"origin": "https://example.org", "x-request-id": "a"})
            for _ in range(2)
        ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (401, "no_token"),
        (429, "rate_limited"),
    ]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        assert answer.headers["x-request-id"] == "a"


def test_at_the_end_answers_close_their_connections_and_new_ones_are_refused(tmp_path):
    settings = Settings(model_path=save_tiny_graph(tmp_path / "tiny.onnx"))
    state = State()
    app = create_app(settings, state)

    async def on_a_new_connection(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/model":
            scope[NEW_CONNECTION] = True
        await app(scope, receive, send)

    with TestClient(on_a_new_connection) as client:
        assert "connection" not in client.get("/v2/health/ready").headers
        state.shutdown.begun = True
        ready = client.get("/v2/health/ready")
        assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
        assert ready.headers["connection"] == "close"
        assert classify(client)["label"] == "red", "what is there is still answered"
        refused = client.get("/model")
        check_error(refused, 503, "shutting_down", "about to end")
        assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
