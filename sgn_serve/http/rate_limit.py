"""Limit the requests of each client."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from sgn_serve.common.refusals import Refusal
from sgn_serve.http.paths import is_open

_LONGEST_WAIT_SECONDS = 86_400
MAX_CLIENTS = 10_000
"""Clients that are remembered. Where there are more, those seen longest ago are forgotten, and start anew."""


class RateLimit:
    """Keep a token bucket for each client: `burst` requests at once, then `rate` a second.

    A client is an IPv4 address, or the first 64 bits of an IPv6 address, which is what one customer gets. Probes and
    the page's own files are not counted.

    Args:
        app: The application to protect.
        rate: Requests a second, 0 for no limit.
        burst: Requests at once.
        clock: Returns the time in seconds.
    """

    def __init__(self, app: ASGIApp, rate: float, burst: int, clock: Callable[[], float] = time.monotonic):
        self.app = app
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Number of requests that each client may make at once, and the time of that number."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
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
            seconds = math.ceil(min((1 - left) / self._rate, _LONGEST_WAIT_SECONDS))
            raise Refusal(
                "rate_limited", f"more than {self._rate:g} requests a second; try again in {seconds} s", seconds
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
