"""Routes that classify, explain and preprocess pictures, and that describe the model and the API."""

from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sgn_serve.api.form import IMAGES, read_form
from sgn_serve.api.openapi.document import bentoml_schema, describe_api
from sgn_serve.common.refusals import Refusal
from sgn_serve.http.paths import CLASSIFY, CLASSIFY_BATCH
from sgn_serve.http.prefix import prefix_of
from sgn_serve.http.request_id import request_id
from sgn_serve.records import Error, ErrorAnswer, Predictions
from sgn_serve.serving.predictor import PredictorSlot
from sgn_serve.telemetry import metrics


class Api:
    """Endpoints for pictures, for the model card and for the descriptions of the API.

    Args:
        slot: Holds the predictor. It must be filled before the first request.
    """

    def __init__(self, slot: PredictorSlot):
        self._slot = slot

    def routes(self) -> list[BaseRoute]:
        """Return the routes, most frequent first, because they are tried in order."""
        return [
            Route(CLASSIFY, self.classify, methods=["POST"]),
            Route(CLASSIFY_BATCH, self.classify_batch, methods=["POST"]),
            Route("/explain", self.explain, methods=["POST"]),
            Route("/preprocess", self.preprocess, methods=["POST"]),
            Route("/model", self.model),
            Route("/model/examples", self.examples),
            Route("/docs.json", self.docs),
            Route("/schema.json", self.schema),
        ]

    async def classify(self, request: Request) -> Response:
        """Classify one picture."""
        predictor = self._slot.predictor
        predictor.check_room()
        async with read_form(request, predictor.settings) as form:
            predictor = self._slot.predictor  # read again: there may have been a reload meanwhile
            return _json(await predictor.classify(form.files[0], form.self_gradient, form.top_k))

    async def classify_batch(self, request: Request) -> Response:
        """Classify several pictures; each is answered or refused on its own."""
        predictor = self._slot.predictor
        predictor.check_room()
        async with read_form(request, predictor.settings, IMAGES) as form:
            answers = await self._slot.predictor.classify_all(form.files, form.self_gradient, form.top_k)
        name = request_id(request.scope)
        for answer in answers:
            if isinstance(answer, Refusal):
                metrics.ERRORS.labels(answer.code).inc()
        return _json(
            Predictions(
                predictions=[
                    ErrorAnswer(error=Error(code=answer.code, message=answer.message, request_id=name))
                    if isinstance(answer, Refusal)
                    else answer
                    for answer in answers
                ]
            )
        )

    async def explain(self, request: Request) -> Response:
        """Draw the self-gradient: how much each pixel changes the sum of the logits."""
        predictor = self._slot.predictor
        predictor.check_room()
        async with read_form(request, predictor.settings, options=()) as form:
            return Response(await self._slot.predictor.explain(form.files[0]), media_type="image/png")

    async def preprocess(self, request: Request) -> Response:
        """Return a picture as the network sees it."""
        predictor = self._slot.predictor
        predictor.check_room()
        async with read_form(request, predictor.settings, options=()) as form:
            return Response(await self._slot.predictor.preprocess(form.files[0]), media_type="image/png")

    async def model(self, request: Request) -> Response:
        """Return the model card."""
        return _json(self._slot.predictor.card)

    async def examples(self, request: Request) -> Response:
        """Return the example pictures beside the served graph, with their perturbations."""
        content = self._slot.predictor.examples.content
        if content is None:
            raise Refusal(
                "no_examples",
                "there are no example pictures beside the served graph; python -m export --examples N writes them",
            )
        return Response(content, media_type="application/json")

    async def docs(self, request: Request) -> Response:
        """Return the description of this API as an OpenAPI document."""
        return JSONResponse(self._document(prefix_of(request.scope)))

    async def schema(self, request: Request) -> Response:
        """Return the description of this API that BentoML's own clients read."""
        return JSONResponse(bentoml_schema())

    def _document(self, prefix: str) -> dict[str, Any]:
        predictor = self._slot.predictor
        return describe_api(predictor.settings, predictor.description, prefix)


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")
