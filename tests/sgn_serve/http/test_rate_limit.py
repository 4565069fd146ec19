import pytest
from starlette.responses import PlainTextResponse

from sgn_serve.common.refusals import Refusal
from sgn_serve.http import rate_limit
from sgn_serve.http.rate_limit import RateLimit
from tests.sgn_serve.asgi import ask


class Limited:
    """A limit of two requests a second, five at once, and a clock that stands still unless it is moved."""

    def __init__(self, rate=2.0):
        self.now = 100.0
        self._app = RateLimit(PlainTextResponse("in"), rate, 5, clock=lambda: self.now)

    def ask(self, client="192.0.2.1", path="/classify"):
        """Seconds to wait, 0 where the request is let in."""
        try:
            ask(self._app, path, client=client)
        except Refusal as refusal:
            return refusal.retry_after if refusal.code == "rate_limited" else -1
        return 0

    def let_in(self, times, **request):
        return sum(self.ask(**request) == 0 for _ in range(times))

    def remembered(self):
        return len(self._app._buckets)


def test_so_many_at_once_then_so_many_a_second():
    limited = Limited()
    assert limited.let_in(10) == 5
    assert limited.ask() == 1
    limited.now += 1
    assert limited.let_in(10) == 2
    limited.now += 3600
    assert limited.let_in(10) == 5, "no more is saved up than the burst"


def test_whoever_comes_back_when_told_is_let_in():
    limited = Limited(rate=0.1)
    limited.let_in(5)
    limited.now += limited.ask()
    assert limited.ask() == 0


@pytest.mark.parametrize("rate", [1e-6, 1e-300, 1e-320])
def test_the_wait_is_a_day_at_most(rate):
    limited = Limited(rate=rate)
    assert limited.let_in(6) == 5
    assert limited.ask() == 86_400


def test_clients_do_not_share():
    limited = Limited()
    limited.let_in(9)
    assert limited.let_in(9, client="192.0.2.2") == 5
    assert limited.let_in(9, client="2001:db8:1:2::1") == 5
    assert limited.let_in(9, client="2001:db8:1:2:ffff::9") == 0, "the same network of 64 bits"
    assert limited.let_in(9, client="2001:db8:1:3::1") == 5
    assert limited.let_in(9, client="::ffff:192.0.2.1") == 0, "an IPv4 address, written otherwise"


def test_probes_and_the_page_are_not_counted():
    limited = Limited()
    assert limited.let_in(20, path="/readyz") == 20
    assert limited.let_in(20, path="/ui/static/page.css") == 20
    assert limited.let_in(20) == 5


def test_no_limit():
    assert Limited(rate=0).let_in(50) == 50


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(rate_limit, "MAX_CLIENTS", 10)
    limited = Limited()
    for number in range(50):
        limited.let_in(6, client=f"192.0.2.{number}")
        assert limited.remembered() <= 10
    assert limited.let_in(9, client="192.0.2.49") == 0, "of those seen last nothing is forgotten"
    with pytest.raises(Refusal):
        ask(limited._app, client="192.0.2.41")
