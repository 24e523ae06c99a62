"""Reader of OBO 1.2/1.4 files (.obo or .obo.gz), one stanza at a time.

Only what a term graph needs is kept: id, name, namespace, alt_id, is_a, relationship, is_obsolete.
Format: http://owlcollab.github.io/oboformat/doc/GO.format.obo-1_4.html
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import DataError, MissingInput, from_os_error

TERM_TAGS = frozenset({"id", "name", "namespace", "alt_id", "is_a", "relationship", "is_obsolete"})
REMEDY = "Use a complete OBO file such as go-basic.obo"


@dataclass(slots=True)
class Stanza:
    """One `[Term]` of the file. `links` are (relation, target id, line) with relation is_a, part_of, ..."""

    line: int
    id: str = ""
    name: str = ""
    namespace: str = ""
    alt_ids: list[str] = field(default_factory=list)
    links: list[tuple[str, str, int]] = field(default_factory=list)
    obsolete: bool = False


@dataclass(slots=True)
class Header:
    """The tags before the first stanza that matter here."""

    version: str = ""
    default_namespace: str = ""


def read_obo(path: Path, header: Header) -> Iterator[Stanza]:
    """Yield every `[Term]` stanza in file order; `header` is filled before the first one.

    Raises:
        MissingInput: no such file.
        DataError: not OBO, cut short, or not text; with the line number.
    """
    stanza: Stanza | None = None
    in_header = True
    number = 0
    for number, line in _lines(path):
        if not line or line[0] == "!":
            continue
        if line[0] == "[":
            if stanza is not None:
                yield _checked(stanza, header, path)
            stanza, in_header = (Stanza(number) if line == "[Term]" else None), False
            continue
        tag, colon, value = line.partition(":")
        if not colon or not tag or " " in tag:
            raise DataError(f"not an OBO line: {line[:60]!r}", where=f"{path}:{number}", remedy=REMEDY)
        if stanza is not None and tag in TERM_TAGS:
            _read_tag(stanza, tag, value.strip(), f"{path}:{number}", number)
        elif in_header:
            _read_header_tag(header, tag, value.strip())
    if in_header:
        raise DataError("no [Term] in the file", where=f"{path}:{number}", remedy=REMEDY)
    if stanza is not None:
        yield _checked(stanza, header, path)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                yield number, line.strip()
    except FileNotFoundError as error:
        raise MissingInput(f"no OBO file {path}", remedy=REMEDY) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"damaged gzip: {error}", where=f"{path}:{number + 1}", remedy=REMEDY) from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error.reason}", where=f"{path}:{number + 1}", remedy=REMEDY) from error
    except OSError as error:
        raise from_os_error(error, str(path)) from error


def _read_header_tag(header: Header, tag: str, value: str) -> None:
    if tag == "data-version":
        header.version = value
    elif tag == "default-namespace":
        header.default_namespace = value


def _read_tag(stanza: Stanza, tag: str, value: str, where: str, number: int) -> None:
    match tag:
        case "id":
            if stanza.id:
                raise DataError(f"a second id in the stanza of {stanza.id}", where=where, remedy=REMEDY)
            stanza.id = _target(value, where)
        case "name":
            stanza.name = value
        case "namespace":
            stanza.namespace = value
        case "alt_id":
            stanza.alt_ids.append(_target(value, where))
        case "is_a":
            stanza.links.append(("is_a", _target(value, where), number))
        case "relationship":
            relation, _, target = value.partition(" ")
            stanza.links.append((relation, _target(target, where), number))
        case "is_obsolete":
            stanza.obsolete = value.partition("!")[0].strip() == "true"


def _target(value: str, where: str) -> str:
    """The id at the start of a value, without trailing modifiers and comment."""
    words = value.split(None, 1)
    if not words or words[0] == "!":
        raise DataError("an id is missing", where=where, remedy=REMEDY)
    return words[0]


def _checked(stanza: Stanza, header: Header, path: Path) -> Stanza:
    stanza.namespace = stanza.namespace or header.default_namespace
    stanza.name = stanza.name or stanza.id
    absent = [tag for tag in ("id", "namespace") if not getattr(stanza, tag)]
    if absent:
        what = f"the stanza of {stanza.id or 'a term'} has no {' and no '.join(absent)}"
        raise DataError(what, where=f"{path}:{stanza.line}", remedy=REMEDY)
    return stanza
