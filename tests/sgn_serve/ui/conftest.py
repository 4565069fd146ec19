"""The browser of all page tests. It ends with them: beside it, no test of this process can call asyncio.run."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.sgn_serve.browser import running_browser


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with running_browser() as started:
        yield started
