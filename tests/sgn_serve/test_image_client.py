"""Do what Triton's example image_client does: classify pictures after nothing but the model's own description.

It asks for the metadata and the configuration, checks that this is an image classifier, and makes the pictures fit. It
sends them in batches, one after the other or all at once. It asks for classes, and prints "score (index) = label".

Source: src/python/examples/image_client.py of github.com/triton-inference-server/client.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from PIL import Image
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from tests.sgn_serve.sample_pictures import noise
from tests.sgn_serve.tiny_graph import CLASS_NAMES, SHIFT

NAME = "self-gradient-network-image"
FORMATS = {"FORMAT_NCHW": (0, 1, 2), "FORMAT_NHWC": (1, 2, 0)}
"""Where channels, height and width stand in a picture's shape."""


@dataclass(frozen=True)
class Model:
    """Facts that the client reads from the descriptions of a model."""

    largest_batch: int
    input: str
    output: str
    channels: int
    height: int
    width: int
    format: str
    datatype: str


def read_model(client: Any, name: str, version: str = "") -> Model:
    metadata = client.get_model_metadata(name, version)
    config = client.get_model_config(name, version)
    (given,) = metadata["inputs"]
    (configured,) = config["input"]
    (output,) = metadata["outputs"]
    batches = config["max_batch_size"] > 0
    assert output["datatype"] == "FP32"
    assert sum(side > 1 for side in output["shape"][batches:]) <= 1, "a vector"
    shape = given["shape"][batches:]
    assert len(shape) == 3
    order = FORMATS[configured["format"]]
    channels, height, width = (shape[order.index(place)] for place in range(3))
    return Model(
        config["max_batch_size"],
        given["name"],
        output["name"],
        channels,
        height,
        width,
        configured["format"],
        given["datatype"],
    )


def preprocess(picture: Image.Image, model: Model, scaling: str = "NONE") -> NDArray[Any]:
    converted = picture.convert("L" if model.channels == 1 else "RGB")
    pixels = np.asarray(converted.resize((model.width, model.height), Image.Resampling.BILINEAR))
    typed = pixels.astype(triton_to_np_dtype(model.datatype))
    if scaling == "INCEPTION":
        typed = typed / 127.5 - 1
    elif scaling == "VGG":
        typed = typed - np.asarray((123, 117, 104), typed.dtype)
    return typed.transpose(2, 0, 1) if model.format == "FORMAT_NCHW" else typed


def classify(
    client: Any, pictures: Sequence[Image.Image], batch: int, classes: int, at_once: bool = False, version: str = ""
) -> list[list[tuple[float, int, str]]]:
    """Score, index and label of each picture's classes. The last batch is filled up with the first pictures."""
    model = read_model(client, NAME, version)
    data = [preprocess(picture, model) for picture in pictures]
    sent: list[Any] = []
    for begin in range(0, len(data), batch):
        stacked = np.stack([data[(begin + place) % len(data)] for place in range(batch)])
        given = triton.InferInput(model.input, stacked.shape, model.datatype)
        given.set_data_from_numpy(stacked)
        wanted = triton.InferRequestedOutput(model.output, class_count=classes)
        ask = client.async_infer if at_once else client.infer
        sent.append(ask(NAME, [given], outputs=[wanted], request_id=str(len(sent) + 1), model_version=version))
    found = []
    for number, answer in enumerate(sent, 1):
        result = answer.get_result() if at_once else answer
        assert result.get_response()["id"] == str(number)
        rows = result.as_numpy(model.output)
        assert len(rows) == batch
        for row in rows:
            texts = [text.decode() if isinstance(text, bytes) else text for text in row]
            found.append([(float(score), int(index), label) for score, index, label in (t.split(":") for t in texts)])
    return found[: len(pictures)]


@pytest.fixture(scope="module")
def client(server):
    address = urlsplit(server.url).netloc
    with triton.InferenceServerClient(address, concurrency=20, connection_timeout=60, network_timeout=60) as opened:
        yield opened


COLOURS = [Image.new("RGB", (20, 10), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]


def test_the_model_says_what_the_client_needs_to_know(client):
    expected = Model(8, "image", "logits", 3, 8, 8, "FORMAT_NCHW", "UINT8")
    assert read_model(client, NAME) == read_model(client, NAME, "1") == expected
    with pytest.raises(ValueError, match="too many values"):
        read_model(client, NAME.removesuffix("-image"))  # the network with all of its outputs


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("version", ["", "1"])
def test_pictures_get_their_classes(client, at_once, batch, version):
    pictures = [*COLOURS, Image.fromarray(noise()), COLOURS[1].convert("P"), COLOURS[2].convert("RGBA")]
    answers = classify(client, pictures, batch, 3, at_once, version)
    for picture, answer in zip(pictures, answers, strict=True):
        pixels = np.asarray(picture.convert("RGB").resize((8, 8), Image.Resampling.BILINEAR)) / 255
        logits = 10 * (pixels.mean(axis=(0, 1)) + SHIFT)
        assert [index for _, index, _ in answer] == np.argsort(-logits).tolist()
        assert [label for _, _, label in answer] == [CLASS_NAMES[index] for _, index, _ in answer]
        np.testing.assert_allclose([score for score, _, _ in answer], np.sort(logits)[::-1], atol=1e-4)


def test_only_the_best_class_is_listed_where_one_is_asked_for(client):
    assert [[label for _, _, label in answer] for answer in classify(client, COLOURS, 3, 1)] == [
        ["red"],
        ["green"],
        ["blue"],
    ]


def test_pixels_scaled_for_other_networks_are_refused_with_the_fix(client):
    """INCEPTION and VGG make numbers that this network does not take. NONE sends bytes."""
    model = read_model(client, NAME)
    for scaling in ("INCEPTION", "VGG"):
        wide = Model(**{**vars(model), "datatype": "FP32"})
        scaled = preprocess(COLOURS[0], wide, scaling).astype(np.float32)[None]
        given = triton.InferInput(model.input, scaled.shape, "FP32")
        given.set_data_from_numpy(scaled)
        with pytest.raises(InferenceServerException, match="divide pixels by 255, or send them as UINT8"):
            client.infer(NAME, [given])


def test_a_batch_over_the_largest_is_refused(client):
    with pytest.raises(InferenceServerException, match="N from 1 to 8"):
        classify(client, COLOURS, 9, 1)
