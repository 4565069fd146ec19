"""Test the protocol's endpoints without a server. See test_foreign_clients for its clients."""

import asyncio
import json
import threading

import httpx
import pytest
from starlette.applications import Starlette

from sgn_serve.api import inference_protocol
from sgn_serve.api.infer_request import parse_request
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
    parse = parse_request

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
    parse = parse_request
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


@pytest.mark.parametrize("length", [65_536, 1_500_000])
def test_others_are_answered_while_a_long_string_among_numbers_is_parsed(tmp_path, monkeypatch, length):
    parsing, answered = threading.Event(), threading.Event()
    parse = parse_request

    def wait_for_answers(*arguments):
        parsing.set()
        assert answered.wait(60), "nobody is answered while a tensor is parsed"
        return parse(*arguments)

    async def ask():
        await serving.predictor.start()
        app = Starlette(routes=InferenceProtocol(serving, lambda: True).routes())
        tensor = {"name": "image", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [1] * 191 + ["9" * length]}
        try:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                infer = asyncio.create_task(client.post(INFER, json={"inputs": [tensor]}))
                while not parsing.is_set() and not infer.done():
                    await asyncio.sleep(0)
                answers = [await client.get("/v2/health/live") for _ in range(20)]
                assert all(answer.json() == {"live": True} for answer in answers)
                assert not infer.done()
                answered.set()
                with pytest.raises(RequestError, match="something else than numbers"):
                    await infer
        finally:
            await serving.predictor.stop()

    monkeypatch.setattr(inference_protocol, "parse_request", wait_for_answers)
    monkeypatch.setattr(inference_protocol, "largest_body", lambda model: 2 * length)
    serving = PredictorSlot()
    serving.put(new_predictor(tmp_path / "tiny.onnx"))
    asyncio.run(ask())
