"""Serve behind a proxy that puts the service under a path of its own, such as https://example.org/classifier/."""

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sgn_serve.http.proxies import TrustedProxies
from sgn_serve.setting_types import parse_prefix

_HEADER = b"x-forwarded-prefix"
_PREFIX = "self_gradient.prefix"


class TakePrefix:
    """Take the prefix off a request's path, where the proxy left it there, and remember it for links.

    It is what a trusted proxy says in X-Forwarded-Prefix, else the setting.

    Args:
        app: The application that knows paths without a prefix.
        root_path: The prefix where no proxy says another, empty for none.
        proxies: Addresses and networks of proxies that are believed.
    """

    def __init__(self, app: ASGIApp, root_path: str, proxies: tuple[str, ...]):
        self.app = app
        self._root_path = root_path
        self._proxies = TrustedProxies(proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on under its path without the prefix."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        prefix = self._said(scope) if self._proxies else None
        if prefix is None:
            prefix = self._root_path
        if prefix:
            if scope["path"] == prefix:  # the page's relative links would lead elsewhere
                await RedirectResponse(f"{prefix}/", 308)(scope, receive, send)
                return
            if scope["path"].startswith(f"{prefix}/"):
                scope["path"] = scope["path"].removeprefix(prefix)
                scope["raw_path"] = scope.get("raw_path", b"").removeprefix(prefix.encode())
        scope[_PREFIX] = prefix
        await self.app(scope, receive, send)

    def _said(self, scope: Scope) -> str | None:
        """Return the prefix that a trusted proxy says, None where there is none."""
        said = [value for name, value in scope["headers"] if name == _HEADER]
        if len(said) != 1 or not self._proxies.sent(scope):
            return None
        try:
            return parse_prefix(said[0].decode("latin-1"))
        except ValueError:
            return None


def prefix_of(scope: Scope) -> str:
    """Return the prefix of a request's path as its client sees it, empty for none."""
    return str(scope.get(_PREFIX, ""))
