"""The BentoML service: starts and stops what is served, and puts our routes before BentoML's own."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import bentoml
from starlette.types import ASGIApp

from sgn_serve.api.classify import Api
from sgn_serve.api.inference_protocol import InferenceProtocol
from sgn_serve.api.operations import Operations
from sgn_serve.api.page import Page
from sgn_serve.http.access_log import ObserveRequests
from sgn_serve.http.body_limits import LimitBody
from sgn_serve.http.connections import ConnectionLimits
from sgn_serve.http.cross_origin import CrossOrigin
from sgn_serve.http.error_form import FlatErrors
from sgn_serve.http.own_routes import OwnRoutes
from sgn_serve.http.rate_limit import RateLimit
from sgn_serve.http.request_id import NameRequests
from sgn_serve.http.shutdown import Ending, RefuseLate, SayGoodbye
from sgn_serve.http.tokens import RequireToken
from sgn_serve.inference.engines import EngineError
from sgn_serve.inference.graph import GraphError, read_graph
from sgn_serve.process.garbage import quiet_garbage
from sgn_serve.process.parent import CANNOT_SERVE
from sgn_serve.serving.predictor import Predictor, Serving
from sgn_serve.serving.reloading import Reloader, fingerprint
from sgn_serve.settings import SettingsError, current_settings
from sgn_serve.telemetry import metrics
from sgn_serve.telemetry.logs import log_json_lines

logger = logging.getLogger("bentoml.sgn_serve")

# BentoML's own default is every network there is. In a container that is right: its network is nobody else's.
HOST = "0.0.0.0" if "BENTOML_CONTAINERIZED" in os.environ else "127.0.0.1"


# The time limit only stands behind FlatErrors' own.
# Nobody exports the spans of BentoML's tracing here, and making them costs a good part of a request. Its metrics make a
# label of every path that anybody asks for, and its log of requests is no JSON: see observation.py.
@bentoml.service(
    traffic={"timeout": 60},
    tracing={"excluded_urls": ".*"},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    http={"host": HOST},
)
class RobustClassifier:
    """Classifies pictures with a self-gradient network, with its block on or off."""

    def __init__(self) -> None:
        log_json_lines()
        try:
            settings = current_settings()
            self.served_files = fingerprint(settings.model_path)
            self.predictor = Predictor(read_graph(settings.model_path), settings)
        except (SettingsError, GraphError, EngineError) as error:
            # No exception, for uvicorn would make a page of it; and no SystemExit, which it takes for one.
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(CANNOT_SERVE)
        except Exception:  # whatever it is, it would be the same again, and again
            logger.exception("this worker cannot start")
            os._exit(CANNOT_SERVE)

    @bentoml.on_deployment
    def check_first() -> None:
        """Ends `bentoml serve` with one line where nothing can be served, before there is a worker to fail."""
        from sgn_serve.process.supervisor import use_supervisor  # here, for it imports what no worker needs

        # A process of its own, so that the supervisor holds no session, and no memory of a GPU.
        package_root = str(Path(__file__).parents[1])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        check = subprocess.run(
            [sys.executable, "-m", "sgn_serve.check"],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        if check.returncode:
            raise SystemExit(check.returncode)
        log_json_lines()
        logger.info("%s", check.stdout.strip())
        use_supervisor()
        # glibc would give nearly every thread a heap of its own, and keep in each what a large picture once needed:
        # some 40 MB more after a minute of mixed requests and reloads. The workers' C library reads this as they start.
        os.environ.setdefault("MALLOC_ARENA_MAX", "2")
        # It would also keep what a large picture took, 130 MB of it, once it has seen pieces of that size freed: those
        # go back to the system instead, while what is smaller, such as the network's tensors, is still kept.
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(8 << 20))
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(16 << 20))
        # uvicorn believes X-Forwarded-For of these, and by default of everybody on this machine.
        os.environ["FORWARDED_ALLOW_IPS"] = ",".join(current_settings().trusted_proxies)

    @bentoml.on_startup
    async def start(self) -> None:
        """Warms the network up, and takes over how the process is reloaded and ended."""
        predictor = self.predictor
        del self.predictor  # it would be kept beside the one that replaces it
        settings = predictor.settings
        limits = ConnectionLimits(settings.receive_seconds, settings.max_connections, settings.access_log)
        ENDING.attach(limits, settings.drain_seconds)
        await predictor.start()
        SERVING.put(predictor)
        RELOADER.remember(self.served_files)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, RELOADER.reload_soon)
        await RELOADER.catch_up()
        quiet_garbage()
        metrics.WORKER_STARTS.inc()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Ends the threads."""
        await SERVING.predictor.stop()

    def __is_ready__(self) -> bool:
        """For /readyz."""
        return ready()


def ready() -> bool:
    """Whether requests should come here: the network has answered at the start and still does, and this is no end."""
    return SERVING.predictor.alive and not ENDING.begun


SERVING = Serving()
RELOADER = Reloader(SERVING)
ENDING = Ending()
ROUTES = [
    *Api(SERVING).routes(),
    *InferenceProtocol(SERVING, ready).routes(),
    *Operations(SERVING, RELOADER).routes(),
    *Page().routes(),
]


# What is built from settings, which are read when a worker starts, not when this file is imported.
def _observe(app: ASGIApp) -> ASGIApp:
    return ObserveRequests(app, ROUTES, current_settings().access_log)


def _cross_origin(app: ASGIApp) -> ASGIApp:
    return CrossOrigin(app, current_settings().cors_origins)


def _rate_limit(app: ASGIApp) -> ASGIApp:
    return RateLimit(app, current_settings().rate_limit, current_settings().rate_burst)


def _require_token(app: ASGIApp) -> ASGIApp:
    return RequireToken(app, current_settings().api_tokens)


# The last one added stands innermost: errors are flattened around the limits, and the limits stand around the routes.
# (mypy does not see what a class decorator returns, here a bentoml.Service.)
_add = RobustClassifier.add_asgi_middleware  # type: ignore[attr-defined]
_add(SayGoodbye, ending=ENDING)
_add(NameRequests)
_add(_observe)
_add(_cross_origin)
_add(FlatErrors)
_add(RefuseLate)
_add(_rate_limit)
_add(_require_token)
_add(LimitBody)
_add(OwnRoutes, routes=ROUTES)
