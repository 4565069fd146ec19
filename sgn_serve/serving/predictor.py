"""Turn picture files into answers: decode them in processes, batch them, classify them. Nothing here knows HTTP."""

import asyncio
import logging
from collections.abc import Sequence
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sgn_serve.common.refusals import Refusal
from sgn_serve.decoder_processes.decoder import DecoderLimits
from sgn_serve.decoder_processes.job import PictureOptions
from sgn_serve.decoder_processes.sharing import SharedDecoder
from sgn_serve.inference.batch_contract import BatchLimits, BatchRun, Observer
from sgn_serve.inference.batching import Batcher, Place
from sgn_serve.inference.classifier import Logits
from sgn_serve.inference.graph import Graph
from sgn_serve.pictures.colours import parse_colour
from sgn_serve.pictures.errors import PictureRefused
from sgn_serve.pictures.heat_map import heat_map_png
from sgn_serve.pictures.input_png import input_png
from sgn_serve.process.version import package_version
from sgn_serve.records import AUTO, ModelCard, Prediction, SelfGradient
from sgn_serve.serving.answers import predict
from sgn_serve.serving.engine_choice import EngineChoice, engine_used, start_chosen
from sgn_serve.serving.examples import read_examples
from sgn_serve.serving.model_card import model_card
from sgn_serve.serving.trial import Tried
from sgn_serve.settings import Settings
from sgn_serve.telemetry import metrics
from sgn_serve.telemetry.ledger import clock, current_ledger

logger = logging.getLogger("bentoml.sgn_serve")


class PredictorSlot:
    """Hold the predictor that answers requests. A reload puts another one in, between two requests.

    Whoever asks `predictor` for an answer reads it after the last await before that: a predictor that was replaced is
    asked no more.

    Attributes:
        predictor: Not there before the first `put`.
    """

    predictor: "Predictor"

    def put(self, predictor: "Predictor") -> None:
        """Serve this predictor from now on, and count which model is served."""
        old = self.__dict__.get("predictor")
        self.predictor = predictor
        if old is not None:
            _count_model(old, -1)
        _count_model(predictor, 1)


class Predictor:
    """Answer with one graph.

    Every method that answers raises Refusal for what a client has to change, and for too many pictures at once.

    Args:
        graph: The graph that read_graph returned.
        settings: See sgn_serve/settings.py.
        tried: The graph's trial, whose engine is taken. None chooses one.

    Raises:
        EngineError: See Classifier.
        GraphError: See Classifier and model_card.
    """

    def __init__(self, graph: Graph, settings: Settings, tried: Tried | None = None):
        self.settings = settings
        chosen = EngineChoice(**tried.choice) if tried is not None and tried.choice else None
        self.classifier, choice = start_chosen(graph, settings, chosen)
        self.description = graph.description
        self.examples = read_examples(graph)
        self.card = model_card(graph, settings, self.examples, engine_used(self.classifier, choice, settings))
        options = picture_options(self.card, settings)
        decoder_limits = DecoderLimits(settings.decoders, settings.decode_seconds, settings.max_bytes)
        self._decoder = SharedDecoder(options, decoder_limits)
        limits = BatchLimits(
            settings.max_batch, settings.batch_ms / 1000, settings.max_wait_ms / 1000, settings.max_queue
        )
        margin = None if self.card.auto is None else self.card.auto.margin
        self.batcher = Batcher(self.classifier.logits, limits, CountBatches(), margin)

    async def start(self) -> None:
        """Start the decoders, and send a picture through, block on and block off: what is ready has answered."""
        await self._decoder.start()
        self.batcher.start()
        black = np.zeros((1, 3, *self.description.image_size), np.float32)
        for self_gradient in (False, True)[: 1 + self.description.has_block]:
            with self.batcher.reserve(1) as place:
                await place.run(black, self_gradient)

    async def stop(self) -> None:
        """Stop the batcher, and end the decoder's processes."""
        await self.batcher.stop()
        await self._decoder.close()

    @property
    def alive(self) -> bool:
        """Return whether the batcher takes pictures."""
        return self.batcher.alive

    def check_room(self) -> None:
        """Refuse while there is no room for one more picture: cheaper before the request's body is read than after.

        Raises:
            Overloaded: There is no room.
        """
        self.batcher.check_room()

    async def classify(self, file: IO[bytes], self_gradient: SelfGradient | None, top_k: int | None) -> Prediction:
        """Return the answer to one picture file.

        Args:
            file: The file, at its beginning.
            self_gradient: Block on or off, or AUTO. None for the setting's default.
            top_k: Classes to list, None for the setting's default.

        Raises:
            Refusal: The picture cannot be answered, or too many are waiting.
        """
        block = self._block(self_gradient)
        with self.batcher.reserve(1) as place:
            return await self._classify(place, file, block, top_k)

    async def classify_all(
        self, files: Sequence[IO[bytes]], self_gradient: SelfGradient | None, top_k: int | None
    ) -> list[Prediction | Refusal]:
        """Return the answers to several picture files, in their order. One that is refused refuses no other.

        Args:
            files: The files, each at its beginning.
            self_gradient: See classify.
            top_k: See classify.

        Raises:
            Refusal: None of them can be answered: too many are waiting, or there is no block to switch on.
        """
        block = self._block(self_gradient)

        async def one(file: IO[bytes]) -> Prediction | Refusal:
            try:
                return await self._classify(place, file, block, top_k)
            except Refusal as refusal:
                place.give_back(1)
                return refusal

        answers: list[Prediction | Refusal] = []
        with self.batcher.reserve(len(files)) as place:
            # Wait for every one, also where one fails: the place is theirs as long as any of them is on its way.
            for answer in await asyncio.gather(*map(one, files), return_exceptions=True):
                if isinstance(answer, BaseException) and not isinstance(answer, Refusal):
                    raise answer
                answers.append(answer)
        return answers

    async def explain(self, file: IO[bytes]) -> bytes:
        """Return a PNG file of the self-gradient over one picture file.

        Raises:
            Refusal: The picture cannot be answered, too many are waiting, or the graph has no such output.
        """
        if not self.description.has_gradient:
            raise Refusal("no_gradient", "the served graph does not answer with a self-gradient")
        with self.batcher.reserve(1) as place:
            pixels, took = await self._decode(place, file)
            logits = await self._run(place, pixels[None], True, took, with_gradient=True)
        assert logits.gradient is not None, "it was asked for"
        return await asyncio.to_thread(heat_map_png, pixels, logits.gradient[0])

    async def preprocess(self, file: IO[bytes]) -> bytes:
        """Return one picture file as the network sees it: a PNG file of the network's size.

        Raises:
            Refusal: The picture cannot be decoded, or too many are waiting.
        """
        with self.batcher.reserve(1) as place:
            pixels, _ = await self._decode(place, file)
        return await asyncio.to_thread(input_png, pixels)

    async def run(self, images: NDArray[np.float32], self_gradient: SelfGradient, with_gradient: bool) -> Logits:
        """Return the logits of pictures that are tensors already.

        Args:
            images: (n, 3, H, W) in [0, 1].
            self_gradient: Block on or off, or AUTO.
            with_gradient: Whether the self-gradient is wanted too, which needs the block on.

        Raises:
            Overloaded: Too many pictures are waiting.
            Refusal: There is no block to switch on, or no threshold for AUTO.
        """
        self_gradient = self._block(self_gradient)
        with self.batcher.reserve(len(images)) as place:
            return await self._run(place, images, self_gradient, None, with_gradient)

    async def _classify(self, place: Place, file: IO[bytes], block: SelfGradient, top_k: int | None) -> Prediction:
        pixels, took = await self._decode(place, file)
        logits = await self._run(place, pixels[None], block, took)
        listed = self.settings.top_k if top_k is None else top_k
        prediction = predict(logits, self.description, listed, self.settings.max_disagreement)
        if prediction.disagreement is not None:
            metrics.DISAGREEMENT.observe(prediction.disagreement)
        if prediction.suspicious:
            metrics.SUSPICIOUS.inc()
        return prediction

    async def _decode(self, place: Place, file: IO[bytes]) -> tuple[NDArray[np.float32], int]:
        """Return the pixels of a picture file, and the nanoseconds that this took."""
        started = clock()
        took = 0
        try:
            pixels = await self._decoder.decode(file, place, place.step_aside)
        except PictureRefused as refused:
            raise Refusal(refused.code, str(refused), refused.retry_after) from None
        finally:
            took = clock() - started
            metrics.DECODE_SECONDS.observe(took / 1e9)
            current_ledger().note_decoded(took)
        return pixels, took

    async def _run(
        self,
        place: Place,
        images: NDArray[np.float32],
        self_gradient: SelfGradient,
        decode: int | None,
        with_gradient: bool = False,
    ) -> Logits:
        """Return the logits of pictures that took so many nanoseconds to decode, None for tensors.

        Raises:
            Refusal: Some of them are not finite. The trial of a model can send some pictures only.
        """
        answer = await place.run(images, self_gradient, with_gradient)
        current_ledger().note_inferred(decode, answer.queue_seconds, answer.infer_seconds, answer.batch_size)
        if not answer.logits.finite():
            logger.error("%s: its answer to a picture is not finite", self.settings.model_path)
            raise Refusal(
                "internal_error", "the network's answer to this picture is not finite; the service needs another model"
            )
        return answer.logits

    def _block(self, self_gradient: SelfGradient | None) -> SelfGradient:
        """Return whether the block is on, or AUTO.

        Raises:
            Refusal: There is no block to switch on, or no threshold for AUTO.
        """
        if self_gradient is None:
            return self.settings.self_gradient if self.description.has_block else False
        if self_gradient and not self.description.has_block:
            raise Refusal(
                "no_block", "the served network has no self-gradient block; leave self_gradient out, or send false"
            )
        if self_gradient == AUTO and self.card.auto is None:
            raise Refusal("no_auto", "the served network has no threshold for self_gradient=auto")
        return self_gradient


def picture_options(card: ModelCard, settings: Settings) -> PictureOptions:
    """Return how pictures are decoded for a model.

    Args:
        card: The model's card, which tells what these settings leave to the model.
        settings: The settings of the service.
    """
    preprocessing = card.preprocessing
    return PictureOptions(
        (preprocessing.height, preprocessing.width),
        settings.max_pixels,
        parse_colour(preprocessing.background),
        preprocessing.resize_mode,
        settings.formats,
    )


class CountBatches(Observer):
    """Count what a batcher does, as metrics."""

    def queued(self, change: int) -> None:
        """Count pictures that begin or cease to wait for a batch."""
        metrics.QUEUE.inc(change)

    def took(self, pictures: int, waited: list[float]) -> None:
        """Count a batch, and how long its items have waited."""
        metrics.BATCH_PICTURES.observe(pictures)
        for seconds in waited:
            metrics.QUEUE_SECONDS.observe(seconds)

    def ran(self, run: BatchRun) -> None:
        """Count one run of the network."""
        block = metrics.BLOCK[run.self_gradient]
        metrics.child(metrics.INFERENCE_SECONDS, block).observe(run.infer_seconds)
        metrics.child(metrics.PICTURES, block).inc(run.pictures)
        if run.auto_pictures:
            (metrics.AUTO_SECOND_PASSES if run.self_gradient else metrics.AUTO_PICTURES).inc(run.auto_pictures)
        metrics.child(metrics.RUNS, run.pictures).inc()
        metrics.LAST_RUN.set_to_current_time()
        metrics.child(metrics.REQUEST_STAGE_SECONDS, "queue").inc(run.queue_seconds)
        for stage, seconds in (
            ("input", run.input_seconds),
            ("infer", run.infer_seconds),
            ("output", run.output_seconds),
        ):
            metrics.child(metrics.RUN_STAGE_SECONDS, run.pictures, stage).inc(seconds)
            metrics.child(metrics.REQUEST_STAGE_SECONDS, stage).inc(run.requests * seconds)

    def answered(self, seconds: list[float], failed: bool) -> None:
        """Count requests that have their logits, or an error."""
        outcome = metrics.FAILED if failed else metrics.SUCCEEDED
        metrics.child(metrics.INFERENCES, outcome).inc(len(seconds))
        metrics.child(metrics.INFERENCES_SECONDS, outcome).inc(sum(seconds))


def _count_model(predictor: Predictor, change: int) -> None:
    card = predictor.card
    metrics.MODEL.labels(card.name, card.model, card.graph_sha256, package_version()).inc(change)
    metrics.QUEUE_LIMIT.inc(change * predictor.settings.max_queue)
