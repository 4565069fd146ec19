"""Routes for people: /ui to try the network, / to read about the API. Plain files with strict security headers."""

from collections.abc import Mapping
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles

from sgn_serve.http.paths import API_PAGE, PAGE, PAGE_FILES

FOLDER = Path(__file__).parents[1] / "ui"

STATIC = tuple(sorted(file.name for file in (FOLDER / "static").iterdir()))

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob:",
    "connect-src": "'self'",
    "form-action": "'none'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
# Swagger UI, which comes with BentoML, writes style attributes and has its icons in data URLs.
_API_POLICY = {**_POLICY, "style-src-attr": "'unsafe-inline'", "img-src": "'self' data:"}
_UI_POLICY = {**_POLICY, "require-trusted-types-for": "'script'", "trusted-types": "'none'"}

_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # browsers check their copy each time, so that a new version is seen at once
}


class Page:
    """Serves the pages. Every link in them is relative, so that they also work behind a proxy's path prefix."""

    def __init__(self) -> None:
        self._static = StaticFiles(directory=FOLDER / "static")

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route(API_PAGE, self.api),
            Route("/docs", self.docs),
            Route(PAGE, self.ui),
            Route(f"{PAGE}/", self.without_slash),
            Route(PAGE_FILES, self.static),
        ]

    async def api(self, request: Request) -> Response:
        """Return Swagger UI with the API's description. BentoML's own page here loads a tracker from another site."""
        return _page("api.html", _API_POLICY)

    async def docs(self, request: Request) -> Response:
        """Redirect to /, for many services have their documentation at /docs."""
        return RedirectResponse("./")

    async def ui(self, request: Request) -> Response:
        """Return the page to try the network on."""
        return _page("page.html", _UI_POLICY)

    async def without_slash(self, request: Request) -> Response:
        """Redirect to /ui, the only address at which the page's relative links work."""
        return RedirectResponse("../ui")

    async def static(self, request: Request) -> Response:
        """Return one of the page's styles and scripts."""
        name = request.path_params["file"]
        if name not in STATIC:
            raise HTTPException(404)
        response = await self._static.get_response(name, request.scope)
        response.headers.update({**_HEADERS, "content-security-policy": "default-src 'none'; frame-ancestors 'none'"})
        return response


def _page(name: str, policy: Mapping[str, str]) -> Response:
    return FileResponse(FOLDER / name, headers={**_HEADERS, "content-security-policy": _written(policy)})


def _written(policy: Mapping[str, str]) -> str:
    return "; ".join(f"{directive} {sources}" for directive, sources in policy.items())
