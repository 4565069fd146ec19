"""Refuse what pages of other sites have a browser send to a server that asks for no token.

Whoever visits such a page would lend it their network. A form of any site can be posted to http://localhost:3000; CORS
only keeps the page from reading the answer.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sgn_serve.common.refusals import Refusal

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site for what a page of this server, or the user, asks for."""
_PORTS = {"http": 80, "https": 443}


class RefuseOtherSites:
    """Refuse requests that change or compute something and come from a page of another site.

    Browsers say where a request comes from (Sec-Fetch-Site, Origin), and pages cannot change that. Programs such as
    curl say neither, and are answered.

    Args:
        app: The application to protect.
        origins: Sites whose pages may ask, "*" for all.
        has_tokens: Whether the service wants a token, which a page of another site does not have.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...], has_tokens: bool):
        self.app = app
        self._origins = {origin.lower() for origin in origins}
        self._open = has_tokens or "*" in origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and not self._open and scope["method"] not in _SAFE_METHODS:
            headers = Headers(scope=scope)
            if headers.get("origin", "").lower() not in self._origins and _is_of_another_site(headers, scope):
                raise Refusal(
                    "cross_origin_refused",
                    "this comes from a page of another site: name the site in SGN_CORS_ORIGINS, or set SGN_API_TOKEN",
                )
        await self.app(scope, receive, send)


def _is_of_another_site(headers: Headers, scope: Scope) -> bool:
    """Return whether a browser says that a page of another site, or of another port, made a request."""
    fetched_from = headers.get("sec-fetch-site")
    if fetched_from is not None:
        return fetched_from.lower() not in _OWN
    # Browsers send no Sec-Fetch-Site to addresses that are neither local nor encrypted.
    origin = headers.get("origin")
    if origin is None:
        return False
    hosts = [headers.get("host", ""), headers.get("x-forwarded-host", "")]  # no page can send the second unasked
    return not any(_is_same(origin, host) for host in hosts if host)


def _is_same(origin: str, host: str) -> bool:
    """Return whether an origin is that of a host. A host without a port has any: proxies leave it out."""
    try:
        ours, theirs = urlsplit(f"//{host}"), urlsplit(origin)
        if theirs.scheme not in _PORTS or ours.hostname is None or theirs.hostname is None:
            return False
        same_port = ours.port is None or ours.port == (theirs.port or _PORTS[theirs.scheme])
        return same_port and ours.hostname == theirs.hostname
    except ValueError:
        return False
