"""Fields of a record by name: `text`, or `a.b` for the field b of the object under a."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any


def field_getter(key: str) -> Callable[[Any], Any]:
    """A function that takes a record and gives the value under a key; a field that has the whole key as its name goes first.

    The function raises KeyError or TypeError where there is none.
    """
    if "." not in key:
        return itemgetter(key)
    path = key.split(".")

    def get(record: Any) -> Any:
        if key in record:
            return record[key]
        for name in path:
            record = record[name]
        return record

    return get


def take_field(record: dict[str, Any], key: str) -> Any:
    """The value under a key, taken out of the record (and out of copies of the objects on the way). None without one."""
    if key in record or "." not in key:
        return record.pop(key, None)
    first, _, rest = key.partition(".")
    inner = record.get(first)
    if not isinstance(inner, dict):
        return None
    record[first] = inner = dict(inner)
    return take_field(inner, rest)


def replace_field(record: dict[str, Any], key: str, value: Any) -> None:
    """Put another value in the place where field_getter finds one."""
    if key in record or "." not in key:
        record[key] = value
    else:
        first, _, rest = key.partition(".")
        replace_field(record[first], rest, value)
