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
        tag, colon, value = line.partition(":")
        if stanza is not None and tag in TERM_TAGS and colon:
            problem = _read_tag(stanza, tag, value.strip(), number)
            if problem:
                raise DataError(problem, where=f"{path}:{number}", remedy=REMEDY)
        elif not line or line[0] == "!":
            continue
        elif line[0] == "[":
            if stanza is not None:
                yield _checked(stanza, header, path)
            stanza, in_header = (Stanza(number) if line == "[Term]" else None), False
        elif not colon or not tag or " " in tag:
            raise DataError(f"not an OBO line: {line[:60]!r}", where=f"{path}:{number}", remedy=REMEDY)
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


def _read_tag(stanza: Stanza, tag: str, value: str, number: int) -> str:
    """Note what a line says; a problem in words, or nothing."""
    if tag == "name":
        stanza.name = value
    elif tag == "namespace":
        stanza.namespace = value
    elif tag == "is_obsolete":
        stanza.obsolete = value.partition("!")[0].strip() == "true"
    else:
        relation = tag
        if tag == "relationship":
            relation, _, value = value.partition(" ")
        # The id at the start of a value, without trailing modifiers and comment.
        target = value.split(None, 1)[0] if value else ""
        if not target or target == "!":
            return "an id is missing"
        if tag == "id":
            if stanza.id:
                return f"a second id in the stanza of {stanza.id}"
            stanza.id = target
        elif tag == "alt_id":
            stanza.alt_ids.append(target)
        else:
            stanza.links.append((relation, target, number))
    return ""


def _checked(stanza: Stanza, header: Header, path: Path) -> Stanza:
    stanza.namespace = stanza.namespace or header.default_namespace
    stanza.name = stanza.name or stanza.id
    if not stanza.id or not stanza.namespace:
        absent = [tag for tag in ("id", "namespace") if not getattr(stanza, tag)]
        what = f"the stanza of {stanza.id or 'a term'} has no {' and no '.join(absent)}"
        raise DataError(what, where=f"{path}:{stanza.line}", remedy=REMEDY)
    return stanza
