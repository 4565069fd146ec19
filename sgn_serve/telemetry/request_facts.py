"""Note facts about a request for its log line, in the layers below HTTP."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class RequestFacts:
    """Facts of one request.

    Attributes:
        batch_size: Pictures in the largest batch that the request's pictures were in, None before there was one.
    """

    batch_size: int | None = None

    def note_batch(self, pictures: int) -> None:
        """Note a batch that held some of the request's pictures."""
        self.batch_size = max(pictures, self.batch_size or 0)


_FACTS: ContextVar[RequestFacts] = ContextVar("request_facts")


def begin_facts() -> RequestFacts:
    """Return new facts, which request_facts returns from now on in this task and in those that it starts."""
    facts = RequestFacts()
    _FACTS.set(facts)
    return facts


def request_facts() -> RequestFacts:
    """Return the facts of the request that is being answered, or facts that nobody reads where there is none."""
    return _FACTS.get(RequestFacts())
