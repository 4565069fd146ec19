"""The BentoML service: starts and stops what is served, and mounts our application in front of BentoML's own.

The supervisor imports this file too. What only a worker needs is imported where a worker needs it.
"""

import asyncio
import errno
import logging
import os
import signal
from functools import cache
from typing import TYPE_CHECKING

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from sgn_serve.error_text import say
from sgn_serve.http.connections import OTHER_FILES, ConnectionLimits, allowed_connections
from sgn_serve.process.freed_memory import FreedMemory
from sgn_serve.process.garbage import freeze_long_lived_objects
from sgn_serve.process.signal_thread import take_signals
from sgn_serve.process.supervised import CANNOT_SERVE, Start
from sgn_serve.refusals import ServingError
from sgn_serve.serving.trial import TRIED_VARIABLE, Tried, read_tried_graph, try_model
from sgn_serve.settings import current_settings
from sgn_serve.telemetry import metrics
from sgn_serve.telemetry.logs import log_json_lines

if TYPE_CHECKING:
    from sgn_serve.app import State

logger = logging.getLogger("bentoml.sgn_serve")

# BentoML listens on every network by default. In a container that is right, because its network is its own.
HOST = "0.0.0.0" if "BENTOML_CONTAINERIZED" in os.environ else "127.0.0.1"


@cache
def state() -> "State":
    """Return what the service and the application share. BentoML makes each of the two by itself, without the other."""
    from sgn_serve.app import State

    return State()


# FormatErrors has a shorter time limit. This one counts only if that fails.
# Nobody exports the spans of BentoML's tracing here, and making them costs a good part of a request. Its metrics make a
# label of every path that anybody asks for, and its log of requests is no JSON: see sgn_serve/http/access_log.py.
@bentoml.service(
    traffic={"timeout": 60},
    tracing={"excluded_urls": ".*"},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    http={"host": HOST},
)
class RobustClassifier:
    """Classify pictures with a self-gradient network, with its block on or off."""

    def __init__(self) -> None:
        from sgn_serve.serving.predictor import Predictor
        from sgn_serve.serving.reloading import fingerprint

        take_signals()
        self.begun = Start()
        log_json_lines()
        try:
            settings = current_settings()
            self.served_files = fingerprint(settings.model_path)
            before = os.environ.get(TRIED_VARIABLE)
            graph, tried = read_tried_graph(settings, Tried.from_json(before) if before else None)
            self.predictor = Predictor(graph, settings, tried)
        except ServingError as error:
            # uvicorn would print the traceback of an exception, and takes SystemExit for one.
            say(f"error: {error}")
            os._exit(CANNOT_SERVE)
        except Exception:  # another try would end alike
            logger.exception("this worker cannot start")
            os._exit(CANNOT_SERVE)

    @bentoml.on_deployment
    def check_first() -> None:
        """End `bentoml serve` with one line where nothing can be served, before there is a worker to fail."""
        from sgn_serve.process.supervisor import use_supervisor  # no worker needs it

        try:
            settings = current_settings()
            tried = try_model(settings)
        except ServingError as error:
            say(f"error: {error}")
            raise SystemExit(error.exit_status) from None
        os.environ[TRIED_VARIABLE] = tried.to_json()  # every worker reads it
        log_json_lines()
        logger.info("%s", tried.summary)
        for note in tried.notes:  # told here, and not once more by each worker
            logger.warning("%s", note)
        wanted = settings.max_connections
        allowed = allowed_connections(wanted)
        if allowed < wanted:
            logger.warning(
                "this process may have so few files open that %d connections are taken at the same time instead of "
                "SGN_MAX_CONNECTIONS=%d; raise the limit with: ulimit -n %d",
                allowed,
                wanted,
                wanted + OTHER_FILES,
            )
        use_supervisor()
        # glibc would give nearly every thread a heap of its own, and keep in each what it once needed. Bodies are
        # written to the disk in threads. The workers' C library reads this at start.
        os.environ.setdefault("MALLOC_ARENA_MAX", "1")
        # Once glibc has seen pieces as large as a picture's freed, it would keep them: 130 MB. With these limits they
        # go back to the system. Smaller pieces, such as the network's tensors, are still kept.
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(8 << 20))
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(4 << 20))
        # uvicorn believes X-Forwarded-For of these, and by default of everybody on this machine.
        os.environ["FORWARDED_ALLOW_IPS"] = ",".join(settings.trusted_proxies)

    @bentoml.on_startup
    async def start(self) -> None:
        """Warm the network up, and take over how the process is reloaded and ended."""
        predictor = self.predictor
        del self.predictor  # it would be kept beside the one that replaces it
        settings = predictor.settings
        connections = allowed_connections(settings.max_connections)
        limits = ConnectionLimits(settings.receive_seconds, connections, settings.access_log)
        shared = state()
        shared.shutdown.attach(limits, settings.drain_seconds)
        self.begun.finish()
        try:
            await predictor.start()
        except OSError as error:
            logger.error("this worker cannot start: %s", error)
            # The machine may have room later, so another try is made. More files may not be open later, either.
            os._exit(CANNOT_SERVE if error.errno == errno.EMFILE else 1)
        except Exception:  # another try would end alike
            logger.exception("this worker cannot start")
            os._exit(CANNOT_SERVE)
        shared.slot.put(predictor)
        shared.reloader.remember(self.served_files)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, shared.reloader.reload_soon)
        await shared.reloader.catch_up()
        freeze_long_lived_objects()
        FreedMemory().keep_giving_back()
        metrics.WORKER_STARTS.inc()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Stop the predictor and its threads."""
        await state().slot.predictor.stop()

    def __is_ready__(self) -> bool:
        """Answer /readyz."""
        return state().ready()


class OurRoutesFirst:
    """Answer our routes, and hand every other request on to BentoML's application.

    Our routes come before BentoML's application, not inside it. BentoML's way to an API costs a good part of a
    request's time, reads bodies that it should not, and turns most errors into others.

    Connections ask it before all of BentoML's other middleware. BentoML's time limit would start a task for each
    request, and a timer that is never stopped. At 250 requests a second, 15,000 of them would be kept.

    Args:
        app: BentoML's application.
    """

    def __init__(self, app: ASGIApp):
        from sgn_serve.app import create_app

        self._bentoml = app
        self._outermost: ASGIApp | None = None

        async def fallback(scope: Scope, receive: Receive, send: Send) -> None:
            outer = scope[_OUTER_APP]
            if outer is None:  # straight from the connection: it comes back here, through BentoML's middleware
                assert self._outermost is not None, "it has started before"
                await self._outermost(scope, receive, send)
                return
            scope["app"] = outer
            await app(scope, receive, send)

        # Settings are read when a worker starts, not when this file is imported.
        self._ours = create_app(current_settings(), state(), fallback)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to our application, and everything else to BentoML's."""
        if scope["type"] == "lifespan":
            from sgn_serve.http.uvicorn_internals import RunningServer

            server = RunningServer.find()
            if server is not None:
                self._outermost = scope["app"]
                server.answer_with(self)
        if scope["type"] != "http" or _OUTER_APP in scope:
            await self._bentoml(scope, receive, send)
            return
        scope[_OUTER_APP] = scope.get("app")
        await self._ours(scope, receive, send)


_OUTER_APP = "self_gradient.outer_app"
"""Key in a request's scope: BentoML's application, None where the request has not come through it."""

# mypy does not see what a class decorator returns, here a bentoml.Service.
RobustClassifier.add_asgi_middleware(OurRoutesFirst)  # type: ignore[attr-defined]
