"""Test the protocol's endpoints without a server. See test_clients for its clients."""

import asyncio
import json
import threading
import tracemalloc

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from sgn_serve.api import inference_protocol
from sgn_serve.api.inference_protocol import InferenceProtocol
from sgn_serve.http.errors import RequestError
from sgn_serve.inference.graph import read_graph
from sgn_serve.serving.predictor import Predictor, PredictorSlot
from sgn_serve.settings import Settings
from tests.sgn_serve.tiny_graph import save_tiny_graph

INFER = "/v2/models/self-gradient-network/infer"
ONE = ("0.5", 1)
MANY = ("0.500000000000000000000000", 16)


def asked(number, pictures):
    tensor = {"name": "image", "datatype": "FP32", "shape": [pictures, 3, 8, 8], "data": []}
    numbers = ",".join([number] * (pictures * 192))
    return json.dumps({"inputs": [tensor]}).replace('"data": []', f'"data": [{numbers}]')


def new_predictor(path, **description):
    model = save_tiny_graph(path, **description)
    return Predictor(read_graph(model), Settings(model_path=model))


def infer(serving, *bodies):
    """Return the answers to some requests, sent one after the other."""

    async def run():
        started = [serving.predictor]
        await serving.predictor.start()
        app = Starlette(routes=InferenceProtocol(serving, lambda: True).routes())
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                return [await client.post(INFER, content=body) for body in bodies]
        finally:
            if serving.predictor not in started:
                await serving.predictor.stop()
            await started[0].stop()

    return asyncio.run(run())


def test_a_large_body_is_parsed_beside_the_event_loop(tmp_path, monkeypatch):
    threads = []
    parse = inference_protocol.parse_request

    def watched(*arguments):
        threads.append(threading.current_thread())
        return parse(*arguments)

    monkeypatch.setattr(inference_protocol, "parse_request", watched)
    serving = PredictorSlot()
    serving.put(new_predictor(tmp_path / "tiny.onnx"))
    answers = infer(serving, asked(*ONE), asked(*MANY), asked(*MANY))
    assert [len(answer.json()["outputs"][0]["data"]) for answer in answers] == [3, 48, 48]
    assert threads[0] is threading.main_thread()
    assert threads[1] is threads[2] is not threading.main_thread()


def test_a_body_is_checked_against_the_model_that_answers_it(tmp_path, monkeypatch):
    parse = inference_protocol.parse_request
    serving = PredictorSlot()
    serving.put(new_predictor(tmp_path / "old.onnx"))
    new = new_predictor(tmp_path / "new.onnx", image_size=(16, 16))

    def swap(*arguments):
        if serving.predictor is not new:
            serving.put(new)
        return parse(*arguments)

    monkeypatch.setattr(inference_protocol, "parse_request", swap)
    with pytest.raises(RequestError, match=r"\[N, 3, 16, 16\]"):
        infer(serving, asked(*MANY))


@pytest.mark.parametrize("value", ["[]", "{}", '""', "0.5"])
def test_json_that_takes_far_more_memory_than_its_bytes_is_not_parsed(tmp_path, monkeypatch, value):
    description = read_graph(save_tiny_graph(tmp_path / "tiny.onnx")).description
    body = asked(value, 100).encode()  # of 16 pictures at most

    def parse(text):
        raise AssertionError("parsed")

    monkeypatch.setattr(inference_protocol, "parse_json", parse)
    with pytest.raises(RequestError, match=r"the JSON has some \d+ values, more than \d+"):
        inference_protocol.parse_request(body, None, description, 16)


def hostile(**changes):
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0.5] * 192}
    body = {"inputs": [tensor | changes.pop("tensor", {})], **changes}
    return json.dumps(body)


LONG = "9" * 40_000
HOSTILE = {
    "a long string among the numbers": hostile(tensor={"data": [1] * 191 + [LONG]}),
    "a long string first": hostile(tensor={"data": [LONG] + [1] * 191}),
    "a long string alone": hostile(tensor={"data": LONG}),
    "a string in a list": hostile(tensor={"data": [[1, 2, "x"]] * 64}),
    "flags": hostile(tensor={"data": [True] * 192}),
    "null": hostile(tensor={"data": [None] * 192}),
    "an object": hostile(tensor={"data": [{}] * 192}),
    "lists of two lengths": hostile(tensor={"data": [[1, 2], [3]] * 64}),
    "numbers and lists": hostile(tensor={"data": [1, [2]] * 96}),
    "deep lists": hostile(tensor={"data": 0}).replace('"data": 0', f'"data": {"[" * 5000}1{"]" * 5000}'),
    "lists of nothing": hostile(tensor={"data": [[[[[[[[[]]]]]]]]]}),
    "a number of many digits": hostile(tensor={"data": [10**400] * 192}),
    "a number of too many digits": hostile(tensor={"data": 0}).replace('"data": 0', f'"data": [{LONG}]'),
    "an exponent": hostile(tensor={"data": 0}).replace('"data": 0', f'"data": [{",".join(["1e999"] * 192)}]'),
    "NaN": hostile(tensor={"data": [float("nan")] * 192}),
    "Infinity": hostile(tensor={"data": [float("inf")] * 192}),
    "-Infinity elsewhere": hostile(other=float("-inf")),
    "a long string in the shape": hostile(tensor={"shape": [1, 3, 8, LONG]}),
    "a huge side": hostile(tensor={"shape": [10**1000, 3, 8, 8]}),
    "a shape of fractions": hostile(tensor={"shape": [1.0, 3, 8, 8]}),
    "a long name": hostile(tensor={"name": LONG}),
    "a long datatype": hostile(tensor={"datatype": LONG}),
    "a long id": hostile(id=LONG),
    "half a character as id": hostile(id="\ud800"),
    "a long output": hostile(outputs=[{"name": LONG}]),
    "outputs without end": hostile(outputs=[{}] * 5000),
    "a huge binary size": hostile(tensor={"parameters": {"binary_data_size": 10**1000}}),
    "a long parameter": hostile(parameters={"binary_data_output": LONG}),
    "a key twice": '{"id": "a", ' + hostile(id="b")[1:],
    "a key twice in a tensor": hostile().replace('{"name"', '{"name": "x", "name"'),
    "two texts": hostile() + hostile(),
    "no UTF-8": hostile().encode("utf-16"),
    "nothing": "",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_is_refused_before_numpy_sees_it(tmp_path, monkeypatch, name):
    description = read_graph(save_tiny_graph(tmp_path / "tiny.onnx")).description
    body = HOSTILE[name]
    monkeypatch.setattr(np, "asarray", None)
    tracemalloc.start()
    try:
        with pytest.raises(RequestError) as refused:
            inference_protocol.parse_request(body if isinstance(body, bytes) else body.encode(), None, description, 16)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.code == "bad_tensor_request"
    assert len(refused.value.message) < 300
    assert "\n" not in refused.value.message
    assert peak < 10 * len(body) + 1_000_000


def test_numbers_in_every_regular_nesting_are_the_same(tmp_path):
    description = read_graph(save_tiny_graph(tmp_path / "tiny.onnx")).description
    numbers = np.linspace(0, 1, 192, dtype=np.float32)
    for shape in ((192,), (1, 192), (3, 64), (1, 3, 8, 8), (1, 1, 1, 3, 8, 8)):
        body = hostile(tensor={"data": numbers.reshape(shape).tolist()}).encode()
        parsed = inference_protocol.parse_request(body, None, description, 16)
        np.testing.assert_array_equal(parsed.images.ravel(), numbers)
    whole = hostile(tensor={"data": [0, 1, 0.0] * 64}).encode("utf-8-sig")
    assert inference_protocol.parse_request(whole, None, description, 16).images.sum() == 64


def test_no_more_than_a_few_kilobytes_are_parsed_on_the_event_loop(tmp_path, monkeypatch):
    threads = []

    def watched(*arguments):
        threads.append(threading.current_thread())
        raise RequestError("bad_tensor_request", "x")

    monkeypatch.setattr(inference_protocol, "parse_request", watched)
    serving = PredictorSlot()
    serving.put(new_predictor(tmp_path / "tiny.onnx"))
    with pytest.raises(RequestError):
        infer(serving, b"x" * 5000)
    assert threads[0] is not threading.main_thread()


def test_numbers_in_lists_of_their_own_are_not_too_many(tmp_path):
    description = read_graph(save_tiny_graph(tmp_path / "tiny.onnx")).description
    body = asked("[0.5]", 16).encode()
    assert inference_protocol.parse_request(body, None, description, 16).images.shape == (16, 3, 8, 8)
