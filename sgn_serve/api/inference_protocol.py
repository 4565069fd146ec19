"""Routes of the Open Inference Protocol, version 2, with its binary tensor extension, for its existing clients.

Clients decode and resize the pictures themselves and send tensors. The names are those of the graph's input and
outputs. Tensors are numbers from 0 to 1 in three precisions, or bytes from 0 to 255. An output may be asked for as its
largest classes. Errors have the protocol's own form, {"error": "a sentence"}, which its clients read, with code and
request_id added.

Source: https://github.com/kserve/open-inference-protocol and Triton's extension_binary_data.md,
extension_classification.md, extension_model_configuration.md and extension_statistics.md.
"""

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sgn_serve.api.infer_answer import answer_numbers, write_answer
from sgn_serve.api.infer_request import HEADER_LENGTH, largest_body, parse_request
from sgn_serve.api.json_body import parse_beside
from sgn_serve.api.model_statistics import model_statistics
from sgn_serve.api.served_models import VERSION, ServedModel, served_models
from sgn_serve.common.graph_format import SELF_GRADIENT
from sgn_serve.http.body_limits import limit_time
from sgn_serve.http.errors import NOT_READY, RequestError
from sgn_serve.http.paths import MODEL_PATHS, PROTOCOL, PROTOCOL_LIVE, PROTOCOL_READY
from sgn_serve.process.version import package_version
from sgn_serve.serving.predictor import Predictor, PredictorSlot
from sgn_serve.telemetry.ledger import current_ledger

_EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "statistics")
_NUMBERS_ON_LOOP = 1000
"""Numbers of an answer that are written on the event loop. More take a thread."""


class InferenceProtocol:
    """Endpoints of the protocol.

    Args:
        slot: Holds the predictor.
        ready: Returns whether this server should get requests.
    """

    def __init__(self, slot: PredictorSlot, ready: Callable[[], bool]):
        self._slot = slot
        self._is_ready = ready

    def routes(self) -> list[BaseRoute]:
        """Return the routes, each with and without the version in its path. There is one version."""
        routes: list[BaseRoute] = [
            Route(PROTOCOL, self.server),
            Route(PROTOCOL_LIVE, self.live),
            Route(PROTOCOL_READY, self.ready),
            Route(f"{PROTOCOL}/models/stats", self.all_statistics),
        ]
        for model in MODEL_PATHS:
            routes += [
                Route(f"{model}/infer", self.infer, methods=["POST"]),
                Route(f"{model}/ready", self.model_ready),
                Route(f"{model}/config", self.config),
                Route(f"{model}/stats", self.statistics),
                Route(model, self.model),
            ]
        return routes

    async def server(self, request: Request) -> Response:
        """Return the server's name, version and extensions."""
        return JSONResponse(
            {
                "name": "self-gradient-networks",
                "version": package_version(),
                "extensions": list(_EXTENSIONS),
            }
        )

    async def live(self, request: Request) -> Response:
        """Answer, which tells that the process is alive."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Return whether this server should get requests."""
        self._check_ready()
        return JSONResponse({"ready": True})

    async def model(self, request: Request) -> Response:
        """Return the names and shapes of the graph's input and outputs."""
        _, model = self._find(request)
        return JSONResponse(model.metadata())

    async def config(self, request: Request) -> Response:
        """Return the model's configuration."""
        _, model = self._find(request)
        return JSONResponse(model.config())

    async def statistics(self, request: Request) -> Response:
        """Return the network's statistics under the name that is asked for: both names are one network."""
        _, model = self._find(request)
        return await _statistics(model.name)

    async def all_statistics(self, request: Request) -> Response:
        """Return the network's statistics, once."""
        return await _statistics(self._slot.predictor.settings.model_name)

    async def model_ready(self, request: Request) -> Response:
        """Return whether the network answers."""
        _, model = self._find(request)
        self._check_ready()
        return JSONResponse({"name": model.name, "ready": True})

    async def infer(self, request: Request) -> Response:
        """Run the graph on pictures: in one pass if only the block-off logits are asked for, else in two.

        The parameter self_gradient=auto has the second pass run for the pictures that need it.
        """
        predictor, model = self._find(request)
        predictor.check_room()
        with current_ledger().parsing():
            body = await _read(request, predictor, model)
            while True:
                predictor, model = self._find(request)
                header_length = request.headers.get(HEADER_LENGTH)
                asked = await parse_beside(len(body), parse_request, body, header_length, model)
                if predictor is self._slot.predictor:  # nothing was reloaded while the body was read or parsed
                    break
        logits = await predictor.run(asked.images, asked.self_gradient, SELF_GRADIENT in asked.outputs)
        if answer_numbers(asked, logits) <= _NUMBERS_ON_LOOP:
            return write_answer(asked, logits, model)
        return await asyncio.to_thread(write_answer, asked, logits, model)

    def _check_ready(self) -> None:
        if not self._is_ready():
            raise RequestError("not_ready", NOT_READY)

    def _find(self, request: Request) -> tuple[Predictor, ServedModel]:
        predictor = self._slot.predictor
        name, version = request.path_params["name"], request.path_params.get("version", VERSION)
        models = served_models(predictor.settings, predictor.description, predictor.card.engine)
        for model in models:
            if name == model.name and version == VERSION:
                return predictor, model
        names = " and ".join(repr(model.name) for model in models)
        raise RequestError(
            "unknown_model",
            f"there is no model {name[:100]!r} in version {version[:100]!r}; there is {names} in version {VERSION!r}",
        )


async def _statistics(name: str) -> Response:
    return JSONResponse({"model_stats": [await asyncio.to_thread(model_statistics, name)]})


async def _read(request: Request, predictor: Predictor, model: ServedModel) -> bytearray:
    """Read the body.

    Raises:
        RequestError: The body is larger than a request with the most pictures needs, or takes too long to arrive.
    """
    largest = largest_body(model)
    body = bytearray()
    async with limit_time(predictor.settings.receive_seconds):
        async for chunk in request.stream():
            body += chunk
            if len(body) > largest:
                raise RequestError(
                    "body_too_large",
                    f"the request body is larger than {largest} bytes, which hold {model.max_pictures} pictures",
                    {"connection": "close"},
                )
    return body
