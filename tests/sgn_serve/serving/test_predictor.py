"""The predictor's answers when its parts fail."""

import asyncio
from functools import partial
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sgn_serve.common.refusals import Refusal
from sgn_serve.decoder_processes.large_pictures import MAX_WAITING
from sgn_serve.decoder_processes.sharing import SharedDecoder
from sgn_serve.inference.graph import read_graph
from sgn_serve.pictures.errors import (
    DamagedImage,
    DecoderCrashed,
    NotAnImage,
    TooManyPixels,
    TooManyWaiting,
    TooSlow,
    UnsupportedPixels,
)
from sgn_serve.records import Prediction
from sgn_serve.serving.predictor import Predictor
from sgn_serve.settings import Settings
from tests.sgn_serve.decoder_processes import faults
from tests.sgn_serve.sample_pictures import encode
from tests.sgn_serve.tiny_graph import save_tiny_graph


def test_a_network_that_fails_on_the_first_of_several_pictures_leaves_the_queue_empty(tmp_path, monkeypatch):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    predictor = Predictor(read_graph(model), Settings(model_path=model))
    run = predictor.classifier.logits

    def logits(images, *arguments):
        if images.max() == 1:
            raise RuntimeError("out of memory")
        return run(images, *arguments)

    monkeypatch.setattr(predictor.batcher, "_run", logits)
    failed = asyncio.Event()

    async def decode(file, request, step_aside):
        """The first is white; the others are there when it has failed."""
        if file.read() == b"first":
            return np.ones((3, 8, 8), np.float32)
        await failed.wait()
        return np.zeros((3, 8, 8), np.float32)

    monkeypatch.setattr(predictor._decoder, "decode", decode)

    async def ask():
        await predictor.start()
        asyncio.get_running_loop().call_later(0.2, failed.set)
        files = [BytesIO(name) for name in (b"first", b"second", b"third")]
        with pytest.raises(RuntimeError, match="out of memory"):
            await predictor.classify_all(files, None, None)
        await asyncio.sleep(0.2)
        assert predictor.batcher.pending == 0
        await predictor.stop()

    asyncio.run(ask())


def test_large_pictures_that_wait_leave_the_queue_to_small_ones(tmp_path, monkeypatch):
    """Pictures are commands to the planted job here. As many large ones wait as fill the queue twice."""
    monkeypatch.setattr("sgn_serve.serving.predictor.SharedDecoder", partial(SharedDecoder, job=faults.JOB))
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    settings = Settings(model_path=model, max_queue=4, max_images=4, decoders=1, decode_seconds=60)
    predictor = Predictor(read_graph(model), settings)

    def ask_for(command):
        return asyncio.create_task(predictor.classify(BytesIO(command), None, None))

    async def ask():
        await predictor.start()
        waiting = []
        for _ in range(MAX_WAITING):
            waiting.append(ask_for(b"large sleep"))
            await ask_for(b"well")
        for _ in range(8):
            with pytest.raises(Refusal, match="large pictures are waiting; try again in") as no:
                await ask_for(b"large well")
            assert (no.value.code, no.value.retry_after) == ("overloaded", MAX_WAITING)
        several = await predictor.classify_all(
            [BytesIO(command) for command in (b"well", b"large well", b"well")], None, None
        )
        assert [type(answer) for answer in several] == [Prediction, Refusal, Prediction]
        assert isinstance(several[1], Refusal)
        assert several[1].code == "overloaded"
        assert predictor.batcher.pending == MAX_WAITING
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert predictor.batcher.pending == 0
        many = await asyncio.gather(*(ask_for(b"large well") for _ in range(4)))
        assert {type(answer) for answer in many} == {Prediction}
        assert predictor.batcher.pending == 0
        await predictor.stop()

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("refused", "code"),
    [
        (NotAnImage("why"), "not_an_image"),
        (UnsupportedPixels("why"), "unsupported_pixels"),
        (TooManyPixels("why"), "too_many_pixels"),
        (TooSlow("why"), "too_slow_to_decode"),
        (DamagedImage("why"), "damaged_image"),
        (DecoderCrashed("why"), "decoder_crashed"),
        (TooManyWaiting(7), "overloaded"),
    ],
)
def test_a_picture_that_is_refused_is_a_refusal_with_its_code_and_message(tmp_path, monkeypatch, refused, code):
    model = save_tiny_graph(tmp_path / "tiny.onnx")
    predictor = Predictor(read_graph(model), Settings(model_path=model))

    async def decode(file, request, step_aside):
        raise refused

    monkeypatch.setattr(predictor._decoder, "decode", decode)
    with pytest.raises(Refusal) as raised:
        asyncio.run(predictor.classify(BytesIO(), None, None))
    assert (raised.value.code, raised.value.message) == (code, str(refused))
    assert raised.value.retry_after == refused.retry_after == (7 if code == "overloaded" else None)
    assert predictor.batcher.pending == 0


def test_pictures_are_resized_as_the_graph_says(tmp_path):
    """The middle of the picture is red, its sides are blue."""
    picture = Image.new("RGB", (30, 10), "blue")
    picture.paste("red", (10, 0, 20, 10))

    async def label(resize):
        model = save_tiny_graph(tmp_path / f"{resize}.onnx", block=False, checkpoint={"resize": resize})
        predictor = Predictor(read_graph(model), Settings(model_path=model, background="#00ff00"))
        await predictor.start()
        try:
            return (await predictor.classify(BytesIO(encode(picture)), None, None)).label
        finally:
            await predictor.stop()

    labels = {resize: asyncio.run(label(resize)) for resize in ("stretch", "crop", "pad")}
    assert labels == {"stretch": "blue", "crop": "red", "pad": "green"}
