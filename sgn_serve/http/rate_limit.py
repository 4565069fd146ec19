"""No client may ask for more than its share."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from sgn_serve.http.errors import RequestError
from sgn_serve.http.tokens import is_open

MAX_CLIENTS = 10_000
"""Clients that are remembered; of more, those seen longest ago are forgotten, and start anew."""


class RateLimit:
    """A token bucket for each client: `burst` requests at once, then `rate` a second.

    A client is an IP address, of IPv6 the first 64 bits, which is what one customer gets. Probes and the page's
    own files are not counted.

    rate:  requests a second; 0 for no limit
    burst: requests
    clock: seconds
    """

    def __init__(self, app: ASGIApp, rate: float, burst: int, clock: Callable[[], float] = time.monotonic):
        self.app = app
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Per client: how many requests it may make at once, as of when."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._rate and scope["type"] == "http" and not is_open(scope["path"]):
            self._take(_client(scope))
        await self.app(scope, receive, send)

    def _take(self, client: str) -> None:
        now = self._clock()
        left, since = self._buckets.pop(client, (float(self._burst), now))
        left = min(self._burst, left + (now - since) * self._rate)
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if left < 1:
            seconds = math.ceil((1 - left) / self._rate)
            raise RequestError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "rate_limited",
                f"more than {self._rate:g} requests a second; try again in {seconds} s",
                {"retry-after": str(seconds)},
            )


def _client(scope: Scope) -> str:
    client = scope.get("client")
    host = str(client[0]) if client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]  # whatever a trusted proxy calls it
    if isinstance(address, ipaddress.IPv6Address):
        return (
            str(ipaddress.ip_network((address, 64), strict=False))
            if address.ipv4_mapped is None
            else str(address.ipv4_mapped)
        )
    return host
