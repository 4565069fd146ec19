"""Parse inference requests: hostile ones are refused early, and numbers are the same in every nesting."""

import contextlib
import json
import time
import tracemalloc

import numpy as np
import pytest

from sgn_serve.api import infer_request
from sgn_serve.api.served_models import ServedModel
from sgn_serve.http.errors import RequestError
from tests.sgn_serve.api.test_inference_protocol import asked

MODEL = ServedModel("tiny", "FP32", ("logits", "plain_logits"), (8, 8), ("red", "green", "blue"), 16)


@pytest.mark.parametrize("value", ["[]", "{}", '""', "0.5"])
def test_json_that_takes_far_more_memory_than_its_bytes_is_not_parsed(monkeypatch, value):
    body = asked(value, 100).encode()  # 16 pictures at most

    def parse(text):
        raise AssertionError("parsed")

    monkeypatch.setattr(infer_request, "parse_with_arrays", parse)
    with pytest.raises(RequestError, match=r"the JSON has some \d+ values, more than \d+"):
        infer_request.parse_request(body, None, MODEL)


def hostile(**changes):
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0.5] * 192}
    body = {"inputs": [tensor | changes.pop("tensor", {})], **changes}
    return json.dumps(body)


LONG = "9" * 40_000
HOSTILE = {
    "a string of 64 KB among the numbers": hostile(tensor={"data": [1] * 191 + ["9" * 65_536]}),
    "a string of 1.5 MB among the numbers": hostile(tensor={"data": [1] * 191 + ["9" * 1_500_000]}),
    "a string of 1.5 MB in a list": hostile(tensor={"data": [[1, 2, "9" * 1_500_000]] + [[1, 2, 3]] * 63}),
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
def test_hostile_json_is_refused_before_numpy_sees_it(monkeypatch, name):
    body = HOSTILE[name]
    fill, view = np.fromiter, np.frombuffer

    def view_bytes(data, dtype):
        assert dtype is np.uint8
        return view(data, dtype)

    def fill_with_numbers(values, *arguments):
        assert {type(value) for value in values} <= {int, float}
        return fill(values, *arguments)

    for function in ("array", "asarray", "asanyarray", "ascontiguousarray", "fromstring", "full"):
        monkeypatch.setattr(np, function, None)
    monkeypatch.setattr(np, "frombuffer", view_bytes)  # finds where the lists of a long text end
    monkeypatch.setattr(np, "fromiter", fill_with_numbers)
    tracemalloc.start()
    try:
        with pytest.raises(RequestError) as refused:
            infer_request.parse_request(body if isinstance(body, bytes) else body.encode(), None, MODEL)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.code == "bad_tensor_request"
    assert len(refused.value.message) < 300
    assert "\n" not in refused.value.message
    assert peak < 10 * len(body) + 1_000_000


@pytest.mark.parametrize("length", [65_536, 1_500_000])
def test_a_long_string_among_numbers_costs_no_more_than_its_bytes_among_them(length):
    digits = length // (16 * 192)
    plain = asked("0." + "5" * digits, 16).encode()
    string = hostile(tensor={"data": [1] * 191 + ["9" * len(plain)]}).encode()
    seconds = {plain: 0.0, string: 0.0}
    for _ in range(3):  # alternating, and of this thread's own time: what else the machine does changes no ratio
        for body in seconds:
            begin = time.thread_time()
            with contextlib.suppress(RequestError):
                infer_request.parse_request(body, None, MODEL)
            seconds[body] += time.thread_time() - begin
    assert seconds[string] < 10 * seconds[plain]


def test_numbers_in_every_regular_nesting_are_the_same():
    numbers = np.linspace(0, 1, 192, dtype=np.float32)
    for shape in ((192,), (1, 192), (3, 64), (1, 3, 8, 8), (1, 1, 1, 3, 8, 8)):
        body = hostile(tensor={"data": numbers.reshape(shape).tolist()}).encode()
        parsed = infer_request.parse_request(body, None, MODEL)
        np.testing.assert_array_equal(parsed.images.ravel(), numbers)
    whole = hostile(tensor={"data": [0, 1, 0.0] * 64}).encode("utf-8-sig")
    assert infer_request.parse_request(whole, None, MODEL).images.sum() == 64


def test_numbers_in_lists_of_their_own_are_not_too_many():
    body = asked("[0.5]", 16).encode()
    assert infer_request.parse_request(body, None, MODEL).images.shape == (16, 3, 8, 8)
