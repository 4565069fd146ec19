"""The BentoML service: starts and stops what is served, and puts our routes before BentoML's own."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import bentoml

from sgn_serve.graph import read_graph
from sgn_serve.inference_protocol import InferenceProtocol
from sgn_serve.middleware import FlatErrors, LimitBody, OwnRoutes
from sgn_serve.page import Page
from sgn_serve.predictor import Predictor, Serving
from sgn_serve.request_id import NameRequests
from sgn_serve.routes import Api
from sgn_serve.settings import current_settings


# The time limit only stands behind FlatErrors' own.
# Nobody exports the spans of BentoML's tracing here, and making them costs a good part of a request.
@bentoml.service(traffic={"timeout": 60}, tracing={"excluded_urls": ".*"})
class RobustClassifier:
    """Classifies pictures with a self-gradient network, with its block on or off."""

    def __init__(self) -> None:
        settings = current_settings()
        self.predictor = Predictor(read_graph(settings.model_path), settings)

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
    async def start(self) -> None:
        """Warms the network up, and keeps full garbage collections, 100 ms each, out of the requests."""
        SERVING.predictor = self.predictor
        await self.predictor.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 1000)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Ends the threads."""
        await SERVING.predictor.stop()

    def __is_ready__(self) -> bool:
        """For /readyz: it has answered at the start, and still takes batches."""
        return SERVING.predictor.alive


SERVING = Serving()

# The last one added stands innermost: errors are flattened around the limit, and the limit stands around the routes.
# (mypy does not see what a class decorator returns, here a bentoml.Service.)
RobustClassifier.add_asgi_middleware(NameRequests)  # type: ignore[attr-defined]
RobustClassifier.add_asgi_middleware(FlatErrors)  # type: ignore[attr-defined]
RobustClassifier.add_asgi_middleware(LimitBody)  # type: ignore[attr-defined]
ROUTES = [*Api(SERVING).routes(), *InferenceProtocol(SERVING).routes(), *Page().routes()]
RobustClassifier.add_asgi_middleware(OwnRoutes, routes=ROUTES)  # type: ignore[attr-defined]
