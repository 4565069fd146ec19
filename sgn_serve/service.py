"""The BentoML service: its settings, our application in front of BentoML's own, and what happens at start and end.

The supervisor imports this file too. What only a worker needs is imported where a worker needs it.
"""

import os
from functools import cache
from typing import TYPE_CHECKING

import bentoml
from starlette.types import ASGIApp

from sgn_serve.common.refusals import ServingError, refused
from sgn_serve.http.connections import warn_of_few_files
from sgn_serve.http.mount import OurRoutesFirst
from sgn_serve.process.worker_environment import set_worker_environment
from sgn_serve.serving.trial import try_model
from sgn_serve.settings import current_settings
from sgn_serve.telemetry.logs import log_json_lines

if TYPE_CHECKING:
    from sgn_serve.app import State

# BentoML listens on every network by default. In a container that is right, because its network is its own.
HOST = "0.0.0.0" if "BENTOML_CONTAINERIZED" in os.environ else "127.0.0.1"


@cache
def state() -> "State":
    """Return what the service and the application share. BentoML makes each of the two by itself, without the other."""
    from sgn_serve.app import State

    return State()


def our_app(fallback: ASGIApp) -> ASGIApp:
    """Return our application. Settings are read when a worker starts, not when this file is imported."""
    from sgn_serve.app import create_app

    return create_app(current_settings(), state(), fallback)


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
        from sgn_serve.worker import Worker

        self.worker = Worker(state())

    @bentoml.on_deployment
    def check_first() -> None:
        """End `bentoml serve` with one line where nothing can be served, before there is a worker to fail."""
        from sgn_serve.process.supervisor import use_supervisor  # no worker needs it

        try:
            settings = current_settings()
            tried = try_model(settings)
        except ServingError as error:
            raise SystemExit(refused(error)) from None
        log_json_lines()
        tried.tell_workers()
        warn_of_few_files(settings.max_connections)
        use_supervisor()
        set_worker_environment(settings.trusted_proxies)

    @bentoml.on_startup
    async def start(self) -> None:
        """Start to answer."""
        await self.worker.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Stop what answers."""
        await self.worker.stop()

    def __is_ready__(self) -> bool:
        """Answer /readyz."""
        return state().ready()


# mypy does not see what a class decorator returns, here a bentoml.Service.
RobustClassifier.add_asgi_middleware(OurRoutesFirst, create=our_app)  # type: ignore[attr-defined]
