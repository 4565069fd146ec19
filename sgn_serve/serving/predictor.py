"""From picture files to answers: decoded in threads, batched, classified. What is served; the routes only talk HTTP."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sgn_serve.http.access_log import facts
from sgn_serve.http.errors import RequestError
from sgn_serve.inference.batching import Batcher, BatchLimits, Observer, Overloaded, Place
from sgn_serve.inference.classifier import Classifier, Logits
from sgn_serve.inference.graph import Graph
from sgn_serve.pictures import images
from sgn_serve.pictures.decoder import Decoder
from sgn_serve.pictures.heat_map import heat_map_png
from sgn_serve.process.version import package_version
from sgn_serve.serving.answers import Prediction, predict
from sgn_serve.serving.model_card import model_card
from sgn_serve.settings import Settings
from sgn_serve.telemetry import metrics

_STATUS = {
    images.NotAnImage: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not_an_image"),
    images.UnsupportedPixels: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_pixels"),
    images.TooManyPixels: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_many_pixels"),
    images.TooSlow: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_slow_to_decode"),
    images.DamagedImage: (HTTPStatus.BAD_REQUEST, "damaged_image"),
}


class Serving:
    """What is being served, from when the service starts: a place to put another predictor, between two requests.

    Whoever asks `predictor` for an answer does so after the last await before it: a predictor that was replaced is
    asked no more.
    """

    predictor: "Predictor"

    def put(self, predictor: "Predictor") -> None:
        """Serves this one from now on."""
        old = self.__dict__.get("predictor")
        self.predictor = predictor
        if old is not None:
            _count_model(old, -1)
        _count_model(predictor, 1)


class Predictor:
    """One graph, ready to answer.

    Every method that answers raises RequestError for what a client has to change, and for too many requests at once.

    raises EngineError and GraphError as Classifier does
    """

    def __init__(self, graph: Graph, settings: Settings):
        self.settings = settings
        self.classifier = Classifier(graph, settings.providers, settings.threads, settings.engine)
        self.description = graph.description
        self.card = model_card(graph, settings)
        self._decoder = Decoder(
            graph.description.image_size,
            settings.max_pixels,
            settings.background,
            settings.decode_seconds,
            settings.decode_threads,
        )
        limits = BatchLimits(
            settings.max_batch, settings.batch_ms / 1000, settings.max_wait_ms / 1000, settings.max_queue
        )
        self.batcher = Batcher(self.classifier.logits, limits, CountBatches())

    async def start(self) -> None:
        """Starts to take batches, and sends a picture through, both ways: what is ready has answered."""
        self.batcher.start()
        black = np.zeros((1, 3, *self.description.image_size), np.float32)
        for self_gradient in (False, True)[: 1 + self.description.has_block]:
            with self.batcher.reserve(1) as place:
                await place.run(black, self_gradient)

    async def stop(self) -> None:
        """Ends what runs."""
        await self.batcher.stop()
        self._decoder.close()

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self.batcher.alive

    def check_room(self) -> None:
        """Refuses while there is no room for one more picture: cheaper before the request's body is read than after."""
        with _refused():
            self.batcher.check_room()

    async def classify(self, file: IO[bytes], self_gradient: bool | None, top_k: int | None) -> Prediction:
        """The answer to one picture file.

        self_gradient: block on or off; None for the setting's default
        top_k:         classes to list; None for the setting's default
        """
        block = self._block(self_gradient)
        with self._reserve(1) as place:
            return await self._classify(place, file, block, top_k)

    async def classify_all(
        self, files: Sequence[IO[bytes]], self_gradient: bool | None, top_k: int | None
    ) -> list[Prediction | RequestError]:
        """The answers to several picture files, in their order; one that is refused refuses no other."""
        block = self._block(self_gradient)

        async def one(file: IO[bytes]) -> Prediction | RequestError:
            try:
                return await self._classify(place, file, block, top_k)
            except RequestError as error:
                place.give_back(1)
                return error

        answers: list[Prediction | RequestError] = []
        with self._reserve(len(files)) as place:
            # Each to its end, also where one fails: the place is theirs as long as any of them is on its way.
            for answer in await asyncio.gather(*map(one, files), return_exceptions=True):
                if isinstance(answer, BaseException) and not isinstance(answer, RequestError):
                    raise answer
                answers.append(answer)
        return answers

    async def explain(self, file: IO[bytes]) -> bytes:
        """The self-gradient over one picture file, as a PNG."""
        if not self.description.has_gradient:
            raise RequestError(
                HTTPStatus.BAD_REQUEST, "no_gradient", "the served graph does not answer with a self-gradient"
            )
        with self._reserve(1) as place:
            pixels = await self._decode(place, file)
            logits = await self._run(place, pixels[None], True, with_gradient=True)
        assert logits.gradient is not None, "it was asked for"
        return await asyncio.to_thread(heat_map_png, pixels, logits.gradient[0])

    async def run(self, images: NDArray[np.float32], self_gradient: bool, with_gradient: bool) -> Logits:
        """The logits of some pictures that are tensors already, (n, 3, H, W) in [0, 1]."""
        with self._reserve(len(images)) as place:
            return await self._run(place, images, self_gradient, with_gradient)

    async def _classify(self, place: Place, file: IO[bytes], block: bool, top_k: int | None) -> Prediction:
        pixels = await self._decode(place, file)
        logits = await self._run(place, pixels[None], block)
        listed = self.settings.top_k if top_k is None else top_k
        prediction = predict(logits, self.description, listed, self.settings.max_disagreement)
        if prediction.disagreement is not None:
            metrics.DISAGREEMENT.observe(prediction.disagreement)
        if prediction.suspicious:
            metrics.SUSPICIOUS.inc()
        return prediction

    async def _decode(self, place: Place, file: IO[bytes]) -> NDArray[np.float32]:
        with metrics.DECODE_SECONDS.time(), _refused():
            try:
                return await self._decoder.decode(file, request=place)
            except images.ImageError as error:
                status, code = _STATUS[type(error)]
                raise RequestError(status, code, str(error)) from None

    async def _run(
        self, place: Place, images: NDArray[np.float32], self_gradient: bool, with_gradient: bool = False
    ) -> Logits:
        logits = await place.run(images, self_gradient, with_gradient)
        facts().note_batch(place.batch_size)
        return logits

    def _block(self, self_gradient: bool | None) -> bool:
        """Whether the block is on."""
        if self_gradient is None:
            return self.settings.self_gradient and self.description.has_block
        if self_gradient and not self.description.has_block:
            raise RequestError(HTTPStatus.BAD_REQUEST, "no_block", "the served network has no self-gradient block")
        return self_gradient

    def _reserve(self, pictures: int) -> Place:
        with _refused():
            return self.batcher.reserve(pictures)


class CountBatches(Observer):
    """What a batcher tells, as metrics."""

    def queued(self, change: int) -> None:
        metrics.QUEUE.inc(change)

    def took(self, pictures: int, waited: list[float]) -> None:
        metrics.BATCH_PICTURES.observe(pictures)
        for seconds in waited:
            metrics.QUEUE_SECONDS.observe(seconds)

    def ran(self, self_gradient: bool, pictures: int, seconds: float) -> None:
        block = metrics.BLOCK[self_gradient]
        metrics.INFERENCE_SECONDS.labels(block).observe(seconds)
        metrics.PICTURES.labels(block).inc(pictures)


def _count_model(predictor: Predictor, change: int) -> None:
    card = predictor.card
    metrics.MODEL.labels(card.name, card.model, card.graph_sha256, package_version()).inc(change)
    metrics.QUEUE_LIMIT.inc(change * predictor.settings.max_queue)


@contextmanager
def _refused() -> Iterator[None]:
    """What there is no room for, as an answer."""
    try:
        yield
    except Overloaded as overloaded:
        raise RequestError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "overloaded",
            str(overloaded),
            {"retry-after": str(overloaded.retry_after)},
        ) from None
