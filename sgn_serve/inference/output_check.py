"""Check that a network answers pictures with numbers that can be sent: of the right shape and type, and all finite."""

import numpy as np
from numpy.typing import NDArray

from sgn_serve.graph_format import LOGITS, PLAIN_LOGITS, SELF_GRADIENT
from sgn_serve.inference.classifier import Classifier

BATCH = 3
"""Pictures that go through the network together. One alone went through it when it was loaded."""


class OutputError(Exception):
    """A network does not answer as it should. The message says which output of it, and for which picture."""


def check_outputs(classifier: Classifier) -> None:
    """Send a grey, a white and a random picture through a network, block off and block on.

    Args:
        classifier: The network.

    Raises:
        OutputError: An output has another shape or type than it should, or is not finite.
    """
    description = classifier.description
    pictures = _pictures(description.image_size)
    for self_gradient in (False, True)[: 1 + description.has_block]:
        logits = classifier.logits(
            np.stack(list(pictures.values())), self_gradient, with_gradient=self_gradient and description.has_gradient
        )
        expected = (BATCH, len(description.class_names))
        _check(PLAIN_LOGITS, logits.plain, expected, pictures)
        if logits.corrected is not None:
            _check(LOGITS, logits.corrected, expected, pictures)
        if logits.gradient is not None:
            _check(SELF_GRADIENT, logits.gradient, (BATCH, 3, *description.image_size), pictures)


def _pictures(image_size: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
    """Return the pictures, (3, H, W) in [0, 1] each, by a name for messages."""
    shape = (3, *image_size)
    return {
        "a grey picture": np.full(shape, 0.5, np.float32),
        "a white picture": np.ones(shape, np.float32),
        "a picture of noise": np.random.default_rng(0).random(shape, np.float32),
    }


def _check(
    name: str, values: NDArray[np.float32], expected: tuple[int, ...], pictures: dict[str, NDArray[np.float32]]
) -> None:
    if values.shape != expected:
        raise OutputError(f"its {name} for {BATCH} pictures are of shape {values.shape} and not {expected}")
    if values.dtype != np.float32:
        raise OutputError(f"its {name} are {values.dtype} and not float32")
    for picture, row in zip(pictures, values, strict=True):
        if not np.isfinite(row).all():
            raise OutputError(f"its {name} for {picture} are not finite")
