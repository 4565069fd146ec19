"""What is served, when its parts fail."""

import asyncio
from io import BytesIO

import numpy as np
import pytest

from sgn_serve.graph import read_graph
from sgn_serve.predictor import Predictor
from sgn_serve.settings import Settings
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

    async def decode(file):
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
