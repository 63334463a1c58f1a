"""Fields of a record by name: `text`, or `a.b` for the field b of the object under a."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any


def field_getter(key: str) -> Callable[[Any], Any]:
    """A function that takes a record and gives the value under a key; a field that has the whole key as its name goes first.

    The function raises KeyError or TypeError where there is none.
    """
    return itemgetter(key) if "." not in key else lambda record: _get(record, key)


def _get(record: Any, key: str) -> Any:
    if not isinstance(record, dict):
        raise TypeError(f"no object around {key!r}")
    first, dot, rest = key.partition(".")
    return record[key] if key in record or not dot else _get(record[first], rest)


def take_field(record: dict[str, Any], key: str) -> Any:
    """The value under a key, taken out of the record (and out of copies of the objects on the way). None without one."""
    first, dot, rest = key.partition(".")
    if key in record or not dot:
        return record.pop(key, None)
    if not isinstance(record.get(first), dict):
        return None
    record[first] = dict(record[first])
    return take_field(record[first], rest)


def replace_field(record: dict[str, Any], key: str, value: Any) -> None:
    """Put another value in the place where field_getter finds one."""
    first, dot, rest = key.partition(".")
    if key in record or not dot:
        record[key] = value
    else:
        replace_field(record[first], rest, value)
