"""Build the ASGI application of the service: its routes, its middleware, and the state that they share."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from sgn_serve.api.classify import Api
from sgn_serve.api.inference_protocol import InferenceProtocol
from sgn_serve.api.operations import Operations
from sgn_serve.api.page import Page
from sgn_serve.http.access_log import ObserveRequests
from sgn_serve.http.body_limits import LimitBody
from sgn_serve.http.cross_origin import CrossOrigin
from sgn_serve.http.cross_site import RefuseOtherSites
from sgn_serve.http.error_form import FormatErrors
from sgn_serve.http.foreign_hosts import RefuseForeignHosts
from sgn_serve.http.packed_bodies import UnpackBody
from sgn_serve.http.prefix import TakePrefix
from sgn_serve.http.ranges import IgnoreRanges
from sgn_serve.http.rate_limit import RateLimit
from sgn_serve.http.request_id import AssignRequestIds
from sgn_serve.http.shutdown import CloseConnections, RefuseNewConnections, Shutdown
from sgn_serve.http.tokens import RequireToken
from sgn_serve.http.websockets import RefuseWebSockets
from sgn_serve.inference.graph import read_graph
from sgn_serve.serving.predictor import Predictor, PredictorSlot
from sgn_serve.serving.reloading import Reloader, fingerprint
from sgn_serve.settings import Settings

logger = logging.getLogger("bentoml.sgn_serve")


@dataclass(frozen=True)
class State:
    """Hold what the routes, the signals and the reloads of one process share.

    Attributes:
        slot: The predictor that answers. It is put in when the service starts.
        reloader: Replaces it.
        shutdown: Tells whether the process is about to end.
    """

    slot: PredictorSlot = field(default_factory=PredictorSlot)
    shutdown: Shutdown = field(default_factory=Shutdown)
    reloader: Reloader = field(init=False)

    def __post_init__(self) -> None:
        """Make the reloader of this slot."""
        object.__setattr__(self, "reloader", Reloader(self.slot))

    def ready(self) -> bool:
        """Return whether requests should come here: the network answers, and the process is not about to end."""
        return self.slot.predictor.alive and not self.shutdown.begun


def create_app(settings: Settings, state: State | None = None, fallback: ASGIApp | None = None) -> Starlette:
    """Return the application.

    Run on its own, as Starlette's TestClient or uvicorn do, it loads the model when it starts. Mounted into BentoML it
    does not: BentoML keeps the lifespan for itself, and sgn_serve/worker.py loads the model.

    Args:
        settings: See sgn_serve/settings.py.
        state: The state shared with signals and reloads, None for a new one.
        fallback: Answers every request that none of the routes match, None for 404.
    """
    shared = state or State()
    routes = [
        *Api(shared.slot).routes(),
        *InferenceProtocol(shared.slot, shared.ready).routes(),
        *Operations(shared.slot, shared.reloader).routes(),
        *Page().routes(),
    ]
    middleware = [  # the first stands outermost
        Middleware(CloseConnections, shutdown=shared.shutdown),
        Middleware(AssignRequestIds),
        Middleware(TakePrefix, root_path=settings.root_path, proxies=settings.trusted_proxies),
        Middleware(ObserveRequests, routes=routes, log=settings.access_log),
        Middleware(CrossOrigin, origins=settings.cors_origins),
        Middleware(FormatErrors),  # around everything that refuses
        Middleware(RefuseNewConnections),
        Middleware(RefuseWebSockets),
        Middleware(IgnoreRanges),
        Middleware(RateLimit, rate=settings.rate_limit, burst=settings.rate_burst),
        Middleware(RefuseOtherSites, origins=settings.cors_origins, has_tokens=bool(settings.api_tokens)),
        Middleware(
            RefuseForeignHosts,
            hosts=settings.allowed_hosts,
            proxies=settings.trusted_proxies,
            is_open=bool(settings.api_tokens) or "*" in settings.cors_origins,
        ),
        Middleware(RequireToken, tokens=settings.api_tokens),
        Middleware(UnpackBody, max_bytes=settings.max_bytes),
        Middleware(LimitBody, max_bytes=settings.max_bytes),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        found = fingerprint(settings.model_path)
        predictor = Predictor(read_graph(settings.model_path), settings)
        for note in predictor.card.notes:
            logger.warning("%s", note)
        await predictor.start()
        shared.slot.put(predictor)
        shared.reloader.remember(found)
        yield
        await shared.slot.predictor.stop()

    app = Starlette(routes=routes, middleware=middleware, lifespan=lifespan)
    app.router.redirect_slashes = False
    if fallback is not None:
        app.router.default = fallback
    return app
