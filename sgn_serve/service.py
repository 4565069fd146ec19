"""The BentoML service: reads the request, decodes, runs, answers."""

import gc
import logging
import os
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import bentoml
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sgn_serve import images, schemas
from sgn_serve.errors import RequestError, error_response
from sgn_serve.form import ClassifyForm, read_form
from sgn_serve.graph import read_graph
from sgn_serve.middleware import FlatErrors, LimitBody, without_client_faults
from sgn_serve.runtime import Classifier
from sgn_serve.settings import current_settings

logging.getLogger("bentoml._internal.server.http_app").addFilter(without_client_faults)

CONCURRENT_REQUESTS = 2
"""Pictures in work at a time: one is decoded while another is on the cores."""

_STATUS = {
    images.NotAnImage: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not_an_image"),
    images.UnsupportedPixels: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_pixels"),
    images.TooManyPixels: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_many_pixels"),
    images.DamagedImage: (HTTPStatus.BAD_REQUEST, "damaged_image"),
}


class UnreadRequest(bentoml.IODescriptor):
    """Hands the request on unread, so that the API itself reads it and answers every fault in one place."""

    media_type: ClassVar[str | None] = "multipart/form-data"
    request: Any

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> "UnreadRequest":
        return cls.model_construct(request=request)

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "title": "ClassifyForm",
            "required": ["image"],
            "properties": {
                "image": {"type": "string", "format": "binary"},
                "self_gradient": {"type": "boolean"},
            },
        }


@bentoml.service(traffic={"timeout": 60})
class RobustClassifier:
    """Classifies pictures with a self-gradient network, with its block on or off."""

    def __init__(self) -> None:
        self.settings = current_settings()
        graph = read_graph(self.settings.model_path)
        self.classifier = Classifier(graph, self.settings.providers, self.settings.threads)
        self.limiter = anyio.CapacityLimiter(CONCURRENT_REQUESTS)

    @bentoml.on_deployment
    def check_first() -> None:
        """Ends `bentoml serve` with one line where nothing can be served; a worker that fails is restarted for ever."""
        # A process of its own, so that the supervisor holds no session, and no memory of a GPU.
        package_root = str(Path(__file__).parents[1])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        check = subprocess.run([sys.executable, "-m", "sgn_serve.check"], env={**os.environ, "PYTHONPATH": path})
        if check.returncode:
            raise SystemExit(check.returncode)

    @bentoml.on_startup
    def freeze_garbage(self) -> None:
        """Keeps full garbage collections, 100 ms each over all that was imported, out of the requests."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 1000)

    @bentoml.api(input_spec=UnreadRequest, output_spec=schemas.Prediction)
    async def classify(self, request: Request) -> schemas.Prediction | Response:
        """Classifies one picture.

        A multipart form: `image`, one picture file; `self_gradient`, true or false, optional.
        """
        try:
            form = await read_form(request)
            return await anyio.to_thread.run_sync(self._answer, form, limiter=self.limiter)
        except RequestError as error:
            return error_response(error.status, error.code, error.message, self.settings)
        except ClientDisconnect:
            return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody is there to read it

    def _answer(self, form: ClassifyForm) -> schemas.Prediction:
        """raises RequestError for a picture that cannot be decoded, and for a block that this network does not have"""
        description = self.classifier.description
        self_gradient = form.self_gradient
        if self_gradient is None:
            self_gradient = self.settings.self_gradient and description.has_block
        elif self_gradient and not description.has_block:
            raise RequestError(HTTPStatus.BAD_REQUEST, "no_block", "the served network has no self-gradient block")
        try:
            image = images.decode(form.data, description.image_size, self.settings.max_pixels)
        except images.ImageError as error:
            status, code = _STATUS[type(error)]
            raise RequestError(status, code, str(error)) from None
        logits = self.classifier.logits(image[None], self_gradient)
        return schemas.predict(logits, description, self.settings.top_k)


# The last one added stands innermost: errors are flattened around the limit. (mypy does not see what a class decorator
# returns, here a bentoml.Service.)
RobustClassifier.add_asgi_middleware(FlatErrors)  # type: ignore[attr-defined]
RobustClassifier.add_asgi_middleware(LimitBody)  # type: ignore[attr-defined]
