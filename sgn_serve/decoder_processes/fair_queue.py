"""A queue in which requests take turns: one with many pictures does not keep others waiting."""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Holds items of several requests. Each request's items stay in their order; the requests take turns."""

    def __init__(self) -> None:
        self._items: OrderedDict[Hashable, deque[Item]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        """Return the number of items of all requests."""
        return self._length

    def put(self, request: Hashable, item: Item) -> None:
        """Add an item behind those of its request."""
        self._items.setdefault(request, deque()).append(item)
        self._length += 1

    def pop(self) -> Item:
        """Remove and return the item whose turn it is.

        Raises:
            IndexError: There is none.
        """
        if not self._items:
            raise IndexError("the queue is empty")
        request, items = self._items.popitem(last=False)
        item = items.popleft()
        self._length -= 1
        if items:
            self._items[request] = items  # the request goes to the end of the queue
        return item

    def remove(self, request: Hashable, item: Item) -> None:
        """Remove an item before its turn. Nothing happens if it is not there any more."""
        items = self._items.get(request)
        if items is not None and item in items:
            items.remove(item)
            self._length -= 1
            if not items:
                del self._items[request]
