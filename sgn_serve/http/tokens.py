"""Check bearer tokens (RFC 6750)."""

import hashlib
import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from sgn_serve.http.errors import RequestError
from sgn_serve.http.paths import is_open

_REALM = 'Bearer realm="self-gradient-network"'


class RequireToken:
    """Require `Authorization: Bearer TOKEN` with one of the tokens for everything but probes and the page.

    Args:
        app: The application to protect.
        tokens: Known tokens, empty for a service that is open to everybody. /admin/reload is closed then.
    """

    def __init__(self, app: ASGIApp, tokens: tuple[str, ...]):
        self.app = app
        self._digests = [_digest(token.encode()) for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            self._check(scope)
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        if not self._digests or is_open(scope["path"]):
            return
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = sent[0].partition(b" ") if len(sent) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer" or not token:
            raise RequestError(
                "no_token",
                "this needs a token: send the header 'Authorization: Bearer TOKEN'",
                {"www-authenticate": _REALM},
            )
        if not self._known(token.strip()):
            raise RequestError(
                "wrong_token",
                "the token is not one of this server's",
                {"www-authenticate": f'{_REALM}, error="invalid_token"'},
            )

    def _known(self, token: bytes) -> bool:
        """Return whether a token is known, in the same time for every token: all are compared, to the end."""
        digest = _digest(token)
        return sum([hmac.compare_digest(digest, known) for known in self._digests]) > 0


def _digest(token: bytes) -> bytes:
    """Return a digest, which has the same length for every token."""
    return hashlib.sha256(token).digest()
