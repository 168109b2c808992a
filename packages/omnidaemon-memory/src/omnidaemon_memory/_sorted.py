"""Sorted lists by key: the one kind of index that both the broker and the tables need."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["SortedIndex"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=tuple[Any, ...] | int | str)


class SortedIndex(Generic[K, V]):
    """For each key a sorted list of distinct items; a key without items is not kept."""

    def __init__(self) -> None:
        self._lists: dict[K, list[V]] = {}

    def add(self, key: K, item: V) -> None:
        """Insert an item that is not there yet."""
        insort(self._lists.setdefault(key, []), item)

    def remove(self, key: K, item: V) -> None:
        """Remove an item that is there."""
        items = self._lists[key]
        place = bisect_left(items, item)
        if items[place] != item:
            raise LookupError(item)
        del items[place]
        if not items:
            del self._lists[key]

    def items(self, key: K) -> list[V]:
        """Return the sorted items of a key; not to be changed, nor kept across a change."""
        return self._lists.get(key, [])

    def before(self, key: K, item: V) -> Iterator[V]:
        """Iterate over what lies below ``item``, from the closest on."""
        items = self.items(key)
        return (items[place] for place in range(bisect_left(items, item) - 1, -1, -1))
