"""Check that a network answers pictures with numbers that can be sent: of the right shape and type, and all finite."""

import time
from collections.abc import Iterator
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from sgn_serve.common.graph_format import LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from sgn_serve.inference.classifier import Classifier

FIRST_BATCH = 3
"""Pictures that go through the network together first."""
LONGEST_SECONDS = 3.0
"""Time of the largest batch that is tried, as the smaller ones let expect: a slow network is tried with smaller ones.
"""
OTHERS_SECONDS = 1.0
"""Time for batches of all other sizes. A fast network answers each of them."""


class NetworkOutputError(Exception):
    """A network does not answer as it should. The message says which output of it, and for which picture."""


def check_outputs(classifier: Classifier, largest: int) -> None:
    """Send batches of grey, white and random pictures through a network, block off and block on.

    Some graphs answer rightly for some sizes of batches only. So the batches double in size up to the largest one. Then
    come all other sizes, from one picture on, while there is time.

    Args:
        classifier: The network.
        largest: Most pictures that it will get together.

    Raises:
        NetworkOutputError: An output has another shape or type than it should, or is not finite.
    """
    description = classifier.description
    shown = _pictures(description.image_size)
    for self_gradient in (False, True)[: 1 + description.has_block]:
        for pictures in _batches(shown, largest):
            images = np.stack([shown[name] for name in pictures])
            logits = classifier.logits(images, self_gradient, self_gradient and description.has_gradient)
            expected = (len(pictures), len(description.class_names))
            _check(PLAIN_LOGITS, logits.plain, expected, pictures)
            if logits.corrected is not None:
                _check(LOGITS, logits.corrected, expected, pictures)
            if logits.gradient is not None:
                _check(SELF_GRADIENT, logits.gradient, images.shape, pictures)


def _pictures(image_size: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
    """Return the pictures, (3, H, W) in [0, 1] each, by a name for messages."""
    shape = (3, *image_size)
    return {
        "a grey picture": np.full(shape, 0.5, np.float32),
        "a white picture": np.ones(shape, np.float32),
        "a picture of noise": np.random.default_rng(0).random(shape, np.float32),
    }


def _batches(shown: dict[str, NDArray[np.float32]], largest: int) -> Iterator[list[str]]:
    """Yield the names of the pictures of each batch: the first one, then twice as many, and then all other sizes."""
    doubled = []
    size = min(FIRST_BATCH, largest)
    while True:
        doubled.append(size)
        began = time.perf_counter()
        yield list(islice(cycle(shown), size))
        more = min(2 * size, largest)
        if more <= size or (time.perf_counter() - began) * more / size > LONGEST_SECONDS:
            break
        size = more
    until = time.perf_counter() + OTHERS_SECONDS
    for other in range(1, largest):
        if time.perf_counter() > until:
            return
        if other not in doubled:
            yield list(islice(cycle(shown), other))


def _check(name: str, values: NDArray[np.float32], expected: tuple[int, ...], pictures: list[str]) -> None:
    if values.shape != expected:
        raise NetworkOutputError(
            f"its {name} for {len(pictures)} pictures are of shape {values.shape} and not {expected}"
        )
    if values.dtype != np.float32:
        raise NetworkOutputError(f"its {name} are {values.dtype} and not float32")
    for picture, row in zip(pictures, values, strict=True):
        if not np.isfinite(row).all():
            raise NetworkOutputError(f"its {name} for {picture} in a batch of {len(pictures)} are not finite")
