"""Answers to inference requests: large ones are written in parts, and in a thread."""

import json
import threading

import httpx
import numpy as np
import pytest

from sgn_serve.api import inference_protocol
from sgn_serve.api.infer_answer import answer_numbers, write_answer
from sgn_serve.api.infer_request import InferRequest, WantedOutput
from sgn_serve.api.served_models import ServedModel
from sgn_serve.inference.classifier import Logits
from tests.sgn_serve.api.test_inference_protocol import INFER, asked, new_predictor
from tests.sgn_serve.server import application_client

MODEL = ServedModel("tiny", "FP32", ("logits", "plain_logits"), (64, 64), ("red", 'gr"\u00fcn', "blue"), 16)


def logits(rows):
    random = np.random.default_rng(0)
    plain, corrected = random.random((2, rows, 3), np.float32)
    return Logits(plain, corrected, random.random((rows, 3, 64, 64), np.float32) - 0.5)


def wanted(*names, classes=None, binary=False):
    return InferRequest(np.zeros(0, np.float32), {name: WantedOutput(binary, classes) for name in names}, "a", True)


@pytest.mark.parametrize("rows", [1, 2, 16])
def test_long_tensors_are_the_same_numbers(rows):
    found = logits(rows)
    request = wanted("self_gradient", "logits")
    assert answer_numbers(request, found) == rows * (3 * 64 * 64 + 3)
    told = json.loads(bytes(write_answer(request, found, MODEL).body))
    assert (told["model_name"], told["model_version"], told["id"]) == ("tiny", "1", "a")
    gradient, corrected = told["outputs"]
    assert (gradient["shape"], corrected["shape"]) == ([rows, 3, 64, 64], [rows, 3])
    assert found.gradient is not None
    np.testing.assert_array_equal(np.array(gradient["data"], np.float32), found.gradient.ravel())
    np.testing.assert_array_equal(np.array(corrected["data"], np.float32).reshape(rows, 3), found.corrected)


def test_class_names_are_written_as_json_has_them():
    (output,) = json.loads(bytes(write_answer(wanted("logits", classes=3), logits(1), MODEL).body))["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 3])
    assert {text.split(":", 2)[2] for text in output["data"]} == set(MODEL.class_names)


def test_what_json_cannot_hold_is_an_error():
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_answer(wanted("plain_logits"), Logits(np.full((1, 3), np.nan, np.float32), None), MODEL)


def test_a_long_answer_is_written_beside_the_event_loop(tmp_path, monkeypatch):
    loops = set()
    threads = []

    def watched(*arguments):
        threads.append(threading.current_thread())
        return write_answer(*arguments)

    def small(*arguments):
        loops.add(threading.current_thread())
        return answer_numbers(*arguments)

    monkeypatch.setattr(inference_protocol, "write_answer", watched)
    monkeypatch.setattr(inference_protocol, "answer_numbers", small)
    settings = new_predictor(tmp_path / "tiny.onnx").settings
    with application_client(settings) as client:
        for output in ("logits", "self_gradient"):
            body = json.loads(asked("0.5", 16)) | {"outputs": [{"name": output}]}
            answer = client.post(INFER, json=body)
            assert answer.status_code == httpx.codes.OK, answer.text
    (loop,) = loops
    assert threads[0] is loop
    assert threads[1] is not loop
