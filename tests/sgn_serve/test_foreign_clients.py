"""Use clients that were not written for this service: tritonclient, BentoML's own, curl."""

import json
import subprocess
import sys
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from sgn_serve.api.infer_request import HEADER_LENGTH
from tests.sgn_serve.sample_pictures import encode, noise
from tests.sgn_serve.tiny_graph import CLASS_NAMES, SHIFT

NAME = "self-gradient-network"
INFER = f"/v2/models/{NAME}/infer"


@pytest.fixture(scope="module")
def triton_client(server):
    client = triton.InferenceServerClient(urlsplit(server.url).netloc, connection_timeout=60, network_timeout=60)
    yield client
    client.close()


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, 3, 8, 8), np.float32)


def tensor(images, binary=True):
    given = triton.InferInput("image", list(images.shape), "FP32")
    given.set_data_from_numpy(images, binary_data=binary)
    return [given]


def test_triton_is_told_what_there_is(triton_client):
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    assert triton_client.is_model_ready(NAME)
    assert triton_client.is_model_ready(NAME, "1")
    assert not triton_client.is_model_ready("another")
    assert "binary_tensor_data" in triton_client.get_server_metadata()["extensions"]
    metadata = triton_client.get_model_metadata(NAME)
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 3, 8, 8]}]
    assert [output["name"] for output in metadata["outputs"]] == ["logits", "plain_logits", "self_gradient"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_triton_infers_in_binary_and_in_json(triton_client, images, binary_in, binary_out):
    names = ["logits", "plain_logits", "self_gradient"]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    answer = triton_client.infer(NAME, tensor(images, binary_in), outputs=outputs, request_id="seven")
    plain = 10 * images.mean(axis=(2, 3))
    np.testing.assert_allclose(answer.as_numpy("plain_logits"), plain, atol=1e-5)
    np.testing.assert_allclose(answer.as_numpy("logits"), plain + 10 * SHIFT, atol=1e-5)
    assert answer.as_numpy("self_gradient").shape == (3, 3, 8, 8)
    assert answer.get_response()["id"] == "seven"


def test_triton_without_outputs_gets_the_logits(triton_client, images):
    answer = triton_client.infer(NAME, tensor(images[:1]), model_version="1")
    assert answer.as_numpy("logits").shape == answer.as_numpy("plain_logits").shape == (1, 3)
    assert answer.as_numpy("self_gradient") is None


@pytest.mark.parametrize("datatype", [np.float16, np.float64, np.uint8])
@pytest.mark.parametrize("binary", [True, False])
def test_triton_sends_other_datatypes(triton_client, images, datatype, binary):
    if datatype is np.uint8:
        given = (255 * images).astype(np.uint8)
        wanted = given / 255
    else:
        given = images.astype(datatype)
        wanted = given
    if datatype is np.float16 and not binary:
        pytest.skip("tritonclient sends FP16 in binary alone")
    asked = triton.InferInput("image", list(given.shape), np_to_triton_dtype(given.dtype))
    asked.set_data_from_numpy(given, binary_data=binary)
    answer = triton_client.infer(NAME, [asked]).as_numpy("plain_logits")
    np.testing.assert_allclose(answer, 10 * wanted.astype(np.float32).mean(axis=(2, 3)), atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("count", [1, 2, 100])
def test_triton_classifies_as_its_example_does(triton_client, images, binary, count):
    """Its image_client asks for classes, and splits "value:index:label" at the colons."""
    outputs = [
        triton.InferRequestedOutput("plain_logits", binary_data=binary, class_count=count),
        triton.InferRequestedOutput("logits", binary_data=not binary),
    ]
    answer = triton_client.infer(NAME, tensor(images), outputs=outputs)
    plain = 10 * images.mean(axis=(2, 3))
    rows = answer.as_numpy("plain_logits")
    assert rows.shape == (3, min(count, 3))
    for row, logits in zip(rows, plain, strict=True):
        texts = [text.decode() if isinstance(text, bytes) else text for text in row]
        split = [text.split(":") for text in texts]
        order = np.argsort(-logits)[:count].tolist()
        assert [int(index) for _, index, _ in split] == order
        assert [label for _, _, label in split] == [CLASS_NAMES[index] for index in order]
        np.testing.assert_allclose([float(value) for value, _, _ in split], logits[order], atol=1e-5)
    np.testing.assert_allclose(answer.as_numpy("logits"), plain + 10 * SHIFT, atol=1e-5)


def test_triton_reads_the_configuration(triton_client):
    config = triton_client.get_model_config(NAME, "1")
    assert config == triton_client.get_model_config(NAME)
    assert config["max_batch_size"] == 8
    assert config["input"] == [{"name": "image", "data_type": "TYPE_FP32", "format": "FORMAT_NCHW", "dims": [3, 8, 8]}]
    assert [(one["name"], one["dims"]) for one in config["output"]] == [
        ("logits", [3]),
        ("plain_logits", [3]),
        ("self_gradient", [3, 8, 8]),
    ]


def test_triton_may_pack_what_it_sends(triton_client, images):
    plain, packed = (
        triton_client.infer(NAME, tensor(images), request_compression_algorithm=name).as_numpy("logits")
        for name in (None, "gzip")
    )
    np.testing.assert_array_equal(packed, plain)


def test_triton_reads_why_not(triton_client, images):
    def refusal(given, **options):
        with pytest.raises(InferenceServerException) as refused:
            triton_client.infer(options.pop("name", NAME), given, **options)
        return str(refused.value)

    assert "[404] there is no model 'another'" in refusal(tensor(images), name="another")
    assert "[400] the input's 'shape'" in refusal(tensor(images[:, :, :4].copy()))
    assert "[400] the input's numbers must lie from 0 to 1" in refusal(tensor(images * 2))
    assert "packed as deflate: send it plain" in refusal(tensor(images), request_compression_algorithm="deflate")
    many = np.zeros((9, 3, 8, 8), np.float32)
    assert "N from 1 to 8" in refusal(tensor(many))


GOOD = {"name": "image", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0.5] * 192}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "'inputs'"),
        ({"inputs": [GOOD, GOOD]}, "one tensor"),
        ({"inputs": [{**GOOD, "name": "x"}]}, "named 'image'"),
        ({"inputs": [{**GOOD, "datatype": "INT8"}]}, "'FP32'"),
        ({"inputs": [{**GOOD, "shape": [True, 3, 8, 8]}]}, "'shape'"),
        ({"inputs": [{**GOOD, "shape": [0, 3, 8, 8]}]}, "'shape'"),
        ({"inputs": [{**GOOD, "shape": [1, 3.0, 8, 8]}]}, "'shape'"),
        ({"inputs": [{**GOOD, "shape": []}]}, "'shape'"),
        ({"inputs": [{**GOOD, "data": [0.5] * 191}]}, "191 numbers instead of 192"),
        ({"inputs": [{**GOOD, "data": ["0.5"] * 192}]}, "list of numbers"),
        ({"inputs": [{**GOOD, "data": [True] * 192}]}, "list of numbers"),
        ({"inputs": [{**GOOD, "data": [[0.5], [0.5, 0.5]]}]}, "numbers"),
        ({"inputs": [{**GOOD, "data": [10**200] * 192}]}, "numbers"),
        ({"inputs": [{**GOOD, "data": [float("nan")] * 192}]}, "NaN is no number in JSON"),
        ({"inputs": [{**GOOD, "data": 0.5}]}, "list of numbers"),
        ({"inputs": [{**GOOD, "data": None}]}, "list of numbers"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 768}}]}, "'binary_data_size'"),
        ({"inputs": [GOOD], "outputs": []}, "'outputs'"),
        ({"inputs": [GOOD], "outputs": [{"name": "x"}]}, "'outputs'"),
        ({"inputs": [GOOD], "outputs": [{"name": "logits", "parameters": {"classification": 0}}]}, "1 or more"),
        ({"inputs": [GOOD], "outputs": [{"name": "logits", "parameters": {"classification": True}}]}, "1 or more"),
        ({"inputs": [GOOD], "outputs": [{"name": "logits", "parameters": {"classification": "1"}}]}, "1 or more"),
        (
            {"inputs": [GOOD], "outputs": [{"name": "self_gradient", "parameters": {"classification": 1}}]},
            "not of 'self_gradient'",
        ),
        ({"inputs": [{**GOOD, "datatype": "UINT8"}]}, "whole numbers from 0 to 255"),
        ({"inputs": [{**GOOD, "datatype": "UINT8", "data": [256] * 192}]}, "whole numbers from 0 to 255"),
        ({"inputs": [{**GOOD, "datatype": "UINT8", "data": [-1] * 192}]}, "whole numbers from 0 to 255"),
        ({"inputs": [{**GOOD, "datatype": ["FP32"]}]}, "'FP32', 'FP16'"),
        ({"inputs": [GOOD], "parameters": {"binary_data_output": 1}}, "true or false"),
        ({"inputs": [GOOD], "id": 7}, "'id'"),
        ({"inputs": [GOOD], "id": "half of a character: \ud800"}, "'id'"),
    ],
)
def test_bad_inference_requests(app_client, body, message):
    response = app_client.post(INFER, content=body if isinstance(body, bytes) else json.dumps(body))
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error", "code", "request_id"]
    assert message in response.json()["error"]
    assert response.json()["code"] == "bad_tensor_request"


def test_binary_bodies_that_do_not_add_up(app_client):
    body = json.dumps({"inputs": [{**{k: GOOD[k] for k in ("name", "datatype", "shape")}}]}).encode()
    for length in ("-1", "x", "99999", "3", "9" * 5000, "0" * 5000):
        response = app_client.post(INFER, content=body + b"\0" * 768, headers={HEADER_LENGTH: length})
        assert response.status_code == 400, length
    response = app_client.post(INFER, content=body + b"\0" * 768, headers={HEADER_LENGTH: str(len(body))})
    assert "no 'binary_data_size'" in response.json()["error"]
    assert app_client.post(INFER, content=b" " * 90_000).status_code == 413, "more than eight pictures may need"
    assert app_client.get(INFER).status_code == 405
    assert isinstance(app_client.get("/v2/nowhere").json()["error"], str)


BENTOML_CLIENT = """
import bentoml, json, shutil, sys
url, path = sys.argv[1:]
with bentoml.SyncHTTPClient(url, timeout=60) as app_client:
    drawing = shutil.copy(app_client.explain(image=path), path + ".drawn")
    answers = [app_client.classify(image=path), app_client.classify(image=path, self_gradient=False, top_k=1)]
    answers += app_client.classify_batch(images=[path, path], top_k=1)["predictions"]
    try:
        refusal = app_client.classify(image=path, top_k=0)
    except bentoml.exceptions.BentoMLException as error:
        refusal = str(error)
    print(json.dumps([answers, drawing, refusal]))
"""


def test_bentomls_own_client(server, tmp_path):
    path = tmp_path / "green.png"
    path.write_bytes(encode(Image.new("RGB", (20, 10), (0, 255, 0))))
    # A process of its own, for BentoML warns of what it imports, and warnings are errors here.
    command = [sys.executable, "-c", BENTOML_CLIENT, server.url, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answers, drawing, refusal = json.loads(done.stdout)
    assert [answer["label"] for answer in answers] == ["green"] * 4
    assert [answer["self_gradient"] for answer in answers] == [True, False, True, True]
    assert [len(answer["top_k"]) for answer in answers] == [2, 1, 1, 1]
    with Image.open(drawing) as drawn:
        assert drawn.size == (256, 256)
    assert "bad_top_k" in refusal


def test_curl(server, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(encode(Image.fromarray(noise())))

    def curl(*arguments):
        done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, check=True, timeout=60)
        return json.loads(done.stdout)

    fields = ["-F", f"image=@{path}", "-F", "self_gradient=false", "-F", "top_k=3"]
    answer = curl(*fields, f"{server.url}/classify")
    assert len(answer["top_k"]) == 3
    images = ["-F", f"images=@{path}", "-F", f"images=@{path}"]
    assert curl(*images, f"{server.url}/classify_batch?top_k=3&self_gradient=false")["predictions"] == [answer] * 2
    bare = f"{server.url}/classify?top_k=3&self_gradient=false"
    assert curl("--data-binary", f"@{path}", bare) == answer
    assert curl("-T", str(path), "-X", "POST", bare) == answer
    assert curl("-F", f"image=<{path}", bare) == answer, "a part without a file name"
    assert curl("-F", "image=http://127.0.0.1/x.png", f"{server.url}/classify")["error"]["code"] == "not_a_file"
