"""The contract of a batcher: its limits, the network that it calls, and what it tells those who wait or measure."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sgn_serve.inference.classifier import Logits


@dataclass(frozen=True)
class BatchRun:
    """One run of the network.

    Attributes:
        self_gradient: Whether the block was on.
        pictures: Pictures in it.
        requests: Requests, or pictures of their own, that these belong to.
        queue_seconds: Seconds from when each request's pictures were decoded to this run, summed over the requests.
        input_seconds: Seconds to put the pictures into one array.
        infer_seconds: Seconds in the network.
        output_seconds: Seconds to give each request its part.
        auto_pictures: Pictures in it that were asked for with self_gradient=auto.
    """

    self_gradient: bool
    pictures: int
    requests: int
    queue_seconds: float
    input_seconds: float
    infer_seconds: float
    output_seconds: float
    auto_pictures: int


class Observer:
    """Callbacks of a batcher, for metrics; these ones do nothing.

    All of them run on the event loop. An exception in one does not reach the requests; the first is logged.
    """

    def queued(self, change: int) -> None:
        """Take note that the number of pictures that wait for a batch has changed by `change`."""

    def took(self, pictures: int, waited: list[float]) -> None:
        """Take note that a batch begins.

        Args:
            pictures: Number of pictures in the batch.
            waited: Seconds since the pictures of each request in it were decoded.
        """

    def ran(self, run: BatchRun) -> None:
        """Take note that the network has run once."""

    def answered(self, seconds: list[float], failed: bool) -> None:
        """Take note that some requests have their logits, or an error.

        Args:
            seconds: Seconds since the pictures of each of them were decoded.
            failed: Whether it is an error.
        """


class LogitsFunction(Protocol):
    """The network as the batcher calls it: `Classifier.logits`, or a function with the same signature."""

    def __call__(self, images: NDArray[np.float32], self_gradient: bool, with_gradient: bool) -> Logits:
        """Return the logits of a batch; see Classifier.logits."""


@dataclass(frozen=True)
class BatchLimits:
    """Limits of the batches and of the queue.

    Args:
        max_batch: Most pictures in one batch.
        batch_seconds: Longest time that a batch should take. The number of pictures adapts to it, but one request is
            always taken.
        max_wait: Longest time in seconds that an idle network waits for more pictures.
        max_queue: Most pictures that are accepted and not yet answered.
    """

    max_batch: int
    batch_seconds: float
    max_wait: float
    max_queue: int


@dataclass(frozen=True)
class Answered:
    """The answer to pictures that waited together.

    Attributes:
        logits: Their logits.
        batch_size: Pictures in their batch.
        queue_seconds: Seconds from when they were put into the queue to the beginning of their batch.
        infer_seconds: Seconds of that batch: all of its runs.
    """

    logits: Logits
    batch_size: int
    queue_seconds: float
    infer_seconds: float
