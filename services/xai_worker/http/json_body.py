"""JSON from a stranger: one spelling of text and numbers, nothing that breaks further in."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from services.xai_worker.http.problem import Problem
from shared.digests import canonical_json

MAX_DEPTH = 64
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def parse_json(data: bytes, *, where: str = "The body") -> Any:
    """Parse UTF-8 JSON.

    Raises:
        Problem: malformed; also for NaN, infinite numbers, lone surrogates, NUL, repeated keys and deep nesting, which
            parsers read differently and databases refuse.
    """
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant, object_pairs_hook=_object)
        _check_depth(value)
        spelled = canonical_json(value)
    except RecursionError as error:
        raise Problem("malformed", f"{where} is nested too deeply") from error
    except UnicodeError as error:
        raise Problem("malformed", f"{where} is not UTF-8 text") from error
    except _Refused as error:
        raise Problem("malformed", f"{where} {error}") from error
    except ValueError as error:
        raise Problem("malformed", f"{where} is not JSON") from error
    if _NUL.search(spelled):
        raise Problem("malformed", f"{where} holds the character NUL")
    return value


class _Refused(ValueError):
    """Valid for Python's parser, refused here; the text is ours."""


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"holds {name}, which is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refused("names a key twice in one object")
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise _Refused("is nested too deeply")
