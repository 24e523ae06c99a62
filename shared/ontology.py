"""The Gene Ontology: terms, the is_a and part_of edges inside one aspect, and what follows from them.

Terms are indexed in topological order, parents before children, by (depth, id); every array and
matrix over "all terms" follows `Ontology.terms`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from shared.collection import uncollected
from shared.errors import DataError
from shared.obo import REMEDY, Header, Stanza, read_obo
from shared.propagation import (
    blend_rows,
    closure_rows,
    count_parents,
    depths,
    propagate_block,
    propagate_rows,
    room_for,
    union_rows,
)

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

ASPECTS = ("MF", "BP", "CC")
RELATIONS = frozenset({"is_a", "part_of"})
EXTERNAL_NAMESPACE = "external"  # terms of other ontologies in the full GO file

_NAMES = {
    "MF": ("F", "MF", "MFO", "MOLECULAR_FUNCTION"),
    "BP": ("P", "BP", "BPO", "BIOLOGICAL_PROCESS"),
    "CC": ("C", "CC", "CCO", "CELLULAR_COMPONENT"),
}
_ASPECT_OF = {name: aspect for aspect, names in _NAMES.items() for name in names}


def normalise_aspect(code: str) -> str:
    """MF, BP or CC for any of the spellings in use: F, MF, MFO, molecular_function, ...

    Raises:
        DataError: another word.
    """
    aspect = _ASPECT_OF.get(code.strip().upper().replace(" ", "_"))
    if aspect is None:
        raise DataError(f"unknown aspect {code!r}", remedy="Use F, P or C, MF, BP or CC, or the namespace names")
    return aspect


@dataclass
class _LiveTerms:
    """What `Ontology.parse` collects: the live terms of the three aspects, and why others are not among them."""

    path: Path
    stanzas: dict[str, Stanza] = field(default_factory=dict)
    aspect_of: dict[str, str] = field(default_factory=dict)
    obsolete: set[str] = field(default_factory=set)
    external: set[str] = field(default_factory=set)

    def add(self, stanza: Stanza) -> None:
        if stanza.id in self.stanzas or stanza.id in self.obsolete or stanza.id in self.external:
            raise DataError(f"{stanza.id} is defined twice", where=f"{self.path}:{stanza.line}", remedy=REMEDY)
        if stanza.obsolete:
            self.obsolete.add(stanza.id)
        elif stanza.namespace == EXTERNAL_NAMESPACE:
            self.external.add(stanza.id)
        elif (aspect := _ASPECT_OF.get(stanza.namespace.upper())) is None:
            what = f"{stanza.id} has the unknown namespace {stanza.namespace!r}"
            raise DataError(what, where=f"{self.path}:{stanza.line}", remedy=REMEDY)
        else:
            self.stanzas[stanza.id], self.aspect_of[stanza.id] = stanza, aspect

    def alternatives(self) -> dict[str, str]:
        """Alternative id -> term; a live id is never an alternative, and the first claim in term order wins."""
        claims: dict[str, str] = {}
        for term in sorted(self.stanzas):
            for alternative in self.stanzas[term].alt_ids:
                if alternative not in self.stanzas:
                    claims.setdefault(alternative, term)
        return dict(sorted(claims.items()))

    def parents(self) -> dict[str, list[str]]:
        """Parents inside the aspect, each once; edges to other aspects and ontologies are left out."""
        parents_of: dict[str, list[str]] = {}
        for term, stanza in self.stanzas.items():
            parents: dict[str, None] = {}
            for relation, target, line in stanza.links:
                if relation not in RELATIONS or target in self.external:
                    continue
                if target not in self.stanzas:
                    what = (
                        f"{term} {relation} {target}, which is {'obsolete' if target in self.obsolete else 'undefined'}"
                    )
                    raise DataError(what, where=f"{self.path}:{line}", remedy=REMEDY)
                if self.aspect_of[target] == self.aspect_of[term]:
                    parents[target] = None
            parents_of[term] = list(parents)
        return parents_of


@dataclass(frozen=True, eq=False)
class Ontology:
    """Terms with their parents; index order is topological (parents before children)."""

    terms: tuple[str, ...]
    names: tuple[str, ...]
    aspects: npt.NDArray[np.int8]  # [term], index into ASPECTS
    parents: tuple[tuple[int, ...], ...]
    alt_ids: dict[str, str]
    obsolete: frozenset[str]
    version: str

    def __len__(self) -> int:
        return len(self.terms)

    @cached_property
    def index(self) -> dict[str, int]:
        """Canonical term id -> index."""
        return {term: i for i, term in enumerate(self.terms)}

    def resolve(self, term: str) -> str | None:
        """The canonical id of a term or alternative id; None if unknown or obsolete."""
        if term in self.index:
            return term
        return self.alt_ids.get(term)

    @cached_property
    def parent_rows(self) -> tuple[IntArray, npt.NDArray[np.int32]]:
        """`parents` as CSR (pointer [n + 1], index)."""
        return _to_rows(self.parents)

    @cached_property
    def closure(self) -> tuple[IntArray, npt.NDArray[np.int32]]:
        """Ancestors of every term, itself included, as CSR (pointer [n + 1], ascending index)."""
        return closure_rows(*self.parent_rows)

    def ancestors(self, i: int) -> IntArray:
        """Indices of the ancestors of term `i`, itself included, ascending."""
        pointer, index = self.closure
        return index[pointer[i] : pointer[i + 1]].astype(np.int64)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Direct children of every term, ascending."""
        lists: list[list[int]] = [[] for _ in self.terms]
        for child, parents in enumerate(self.parents):
            for parent in parents:
                lists[parent].append(child)
        return tuple(map(tuple, lists))

    @cached_property
    def depth(self) -> IntArray:
        """Longest path to a term without parents, in edges; 0 for roots. Ascends with the index."""
        depth = np.zeros(len(self), np.int64)
        for child, parents in enumerate(self.parents):
            if parents:
                depth[child] = 1 + max(int(depth[parent]) for parent in parents)
        return depth

    @cached_property
    def roots(self) -> dict[str, str]:
        """Aspect -> its root: the parentless term with the most descendants. Absent aspects have no key."""
        descendants = np.bincount(self.closure[1], minlength=len(self))
        roots: dict[str, int] = {}
        for i, parents in enumerate(self.parents):
            aspect = ASPECTS[self.aspects[i]]
            if not parents and (aspect not in roots or descendants[i] > descendants[roots[aspect]]):
                roots[aspect] = i
        return {aspect: self.terms[roots[aspect]] for aspect in ASPECTS if aspect in roots}

    @cached_property
    def edges(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """All edges (children, parents), deepest child first: the order in which scores move up."""
        pointer, index = self.parent_rows
        child = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(pointer))
        return child[::-1].copy(), index[::-1].copy()

    def subset_edges(self, terms: Sequence[str]) -> list[tuple[int, int]]:
        """(child, parent) positions in `terms`: the transitive reduction of "is an ancestor of" among them.

        A term hangs on its nearest kept ancestors, through left-out terms. Deepest children come
        first, so the edges may go to `propagate_dense` as they are.

        Raises:
            DataError: a term is unknown, or stands twice.
        """
        position = self._positions(terms)
        edges: list[tuple[int, int]] = []
        for child in sorted(position, reverse=True):
            kept = [int(a) for a in self.ancestors(child) if a != child and int(a) in position]
            covered = {int(b) for a in kept for b in self.ancestors(a) if b != a}
            edges += [(position[child], position[parent]) for parent in kept if parent not in covered]
        return edges

    def _positions(self, terms: Sequence[str]) -> dict[int, int]:
        position: dict[int, int] = {}
        for place, term in enumerate(terms):
            if term not in self.index:
                raise DataError(
                    f"{term} is not a live term of GO {self.version}", remedy="Resolve alternative ids first"
                )
            if position.setdefault(self.index[term], place) != place:
                raise DataError(f"{term} stands twice in the list of terms")
        return position

    @classmethod
    def parse(cls, path: Path) -> Self:
        """Read an OBO file (.obo or .obo.gz), streamed.

        Raises:
            MissingInput: no such file.
            DataError: a damaged file, an undefined or obsolete parent, a term defined twice, an
                unknown namespace, a cycle; with the line number.
        """
        with uncollected():
            return cls._parse(path)

    @classmethod
    def _parse(cls, path: Path) -> Self:
        header = Header()
        terms = _LiveTerms(path)
        for stanza in read_obo(path, header):
            terms.add(stanza)
        if not terms.stanzas:
            raise DataError("no live GO term in the file", where=str(path), remedy=REMEDY)
        order, parents = _topological(terms.parents(), path)
        return cls(
            terms=order,
            names=tuple(terms.stanzas[term].name for term in order),
            aspects=np.array([ASPECTS.index(terms.aspect_of[term]) for term in order], np.int8),
            parents=parents,
            alt_ids=terms.alternatives(),
            obsolete=frozenset(terms.obsolete),
            version=header.version,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the inverse of `from_json`."""
        return {
            "version": self.version,
            "terms": list(self.terms),
            "names": list(self.names),
            "aspects": [ASPECTS[a] for a in self.aspects],
            "parents": [list(parents) for parents in self.parents],
            "alt_ids": self.alt_ids,
            "obsolete": sorted(self.obsolete),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild what `to_json` wrote.

        Raises:
            DataError: a key is missing, lengths differ, or a parent does not come before its child.
        """
        try:
            ontology = cls(
                terms=tuple(value["terms"]),
                names=tuple(value["names"]),
                aspects=np.array([ASPECTS.index(aspect) for aspect in value["aspects"]], np.int8),
                parents=tuple(tuple(parents) for parents in value["parents"]),
                alt_ids=dict(value["alt_ids"]),
                obsolete=frozenset(value["obsolete"]),
                version=value["version"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not an ontology document: {error!r}", remedy="Run stage_01_parsed again") from error
        if len({len(ontology.terms), len(ontology.names), len(ontology.aspects), len(ontology.parents)}) != 1:
            raise DataError("lists of different lengths in an ontology document", remedy="Run stage_01_parsed again")
        for child, parents in enumerate(ontology.parents):
            if any(not 0 <= parent < child for parent in parents):
                raise DataError(f"a parent of {ontology.terms[child]} does not come before it in an ontology document")
        return ontology


def _to_rows(lists: Sequence[Sequence[int]]) -> tuple[IntArray, npt.NDArray[np.int32]]:
    pointer = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(entry) for entry in lists], out=pointer[1:])
    return pointer, np.fromiter((i for entry in lists for i in entry), np.int32, int(pointer[-1]))


def _topological(
    parents_of: Mapping[str, Sequence[str]], path: Path
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Terms by depth (the longest distance from a term without parents) and then id, and each one's parents as places."""
    names = sorted(parents_of)
    number = dict(zip(names, range(len(names)), strict=True))
    pointer, index = _to_rows([[number[parent] for parent in parents_of[name]] for name in names])
    depth = depths(pointer, index)
    if len(depth) and depth.min() < 0:
        cycle = " -> ".join(_find_cycle(parents_of, {names[done] for done in np.flatnonzero(depth >= 0)}))
        raise DataError(f"the terms are their own ancestors: {cycle}", where=str(path), remedy=REMEDY)
    order = np.argsort(depth, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    places, ends = place[index].tolist(), pointer.tolist()
    found = order.tolist()
    parents = tuple(tuple(sorted(places[ends[term] : ends[term + 1]])) for term in found)
    return tuple(names[term] for term in found), parents


def _find_cycle(parents_of: Mapping[str, Sequence[str]], done: Set[str]) -> list[str]:
    """One cycle; every term that is not done has a parent that is not done, so climbing must meet itself."""
    path = [min(term for term in parents_of if term not in done)]
    while True:
        parent = min(parent for parent in parents_of[path[-1]] if parent not in done)
        if parent in path:
            return [*path[path.index(parent) :], parent]
        path.append(parent)


def propagate_max(scores: sparse.csr_array, ontology: Ontology, *, fill: bool = False) -> sparse.csr_array:
    """Give every term the maximum of its own and its descendants' scores.

    Args:
        scores: [n, len(ontology)], values >= 0; entries that are 0 count as absent.
        ontology: names the columns.
        fill: a term with a score of its own keeps it, and only absent ones are filled in from their
            children (cafaeval's `-prop fill`).

    Returns:
        CSR of the same shape and dtype, without explicit zeros, column indices sorted.

    Raises:
        DataError: a score is negative or not a number, or the width is not the ontology's.
    """
    _check_width(scores, ontology)
    if scores.nnz and not scores.data.min() >= 0:
        raise DataError("a score is negative or not a number")
    rows = (scores.indptr.astype(np.int64), scores.indices.astype(np.int32), np.ascontiguousarray(scores.data))
    pointer, index, values = propagate_rows(rows, ontology.parent_rows, ontology.closure, fill)
    return _canonical(values, index, pointer, scores.shape)


def _check_width(rows: sparse.csr_array, ontology: Ontology) -> None:
    if rows.shape[1] != len(ontology):
        raise DataError(f"scores have {rows.shape[1]} columns, the ontology has {len(ontology)} terms")


def propagate_blend(scores: sparse.csr_array, ontology: Ontology, share: float) -> sparse.csr_array:
    """Give every term `share` of the maximum over its descendants and the rest of the minimum over its ancestors.

    Both include the term itself, and a term without a score bounds no other; none is raised above
    the maximum. As `propagate_max`, whose arguments
    and errors it has, the result obeys the true-path rule: neither part rises from a parent to a child. Scores
    that obey it already stay as they are, and `share` 1 is `propagate_max`.

    Source: ProtBoost (CAFA5, 2nd place) averages the two directions, each damped by the score itself; without that
    damping the average is consistent by itself.

    Raises:
        DataError: also where `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise DataError(f"a share of {share:g}", remedy="Use more than 0 and at most 1")
    result = propagate_max(scores, ontology)
    if share < 1:
        own = sparse.csr_array(scores)
        rows = (own.indptr.astype(np.int64), own.indices.astype(np.int32), np.ascontiguousarray(own.data))
        blend_rows(rows, (result.indptr, result.indices, result.data), ontology.parent_rows, share)
    return result


def propagate_labels(labels: sparse.csr_array, ontology: Ontology) -> sparse.csr_array:
    """Add every ancestor of a label; boolean CSR [n, len(ontology)] in and out."""
    _check_width(labels, ontology)
    if not labels.data.all():
        labels = labels.copy()
        labels.eliminate_zeros()
    pointer, index = labels.indptr.astype(np.int64), labels.indices.astype(np.int32)
    above = np.empty(room_for(pointer, index, ontology.closure), np.int32)
    pointer = union_rows(pointer, index, ontology.closure, above)
    above.resize(int(pointer[-1]), refcheck=False)  # gives the rest back without a copy
    return _canonical(np.ones(len(above), np.bool_), above, pointer, labels.shape)


def _canonical(
    values: npt.NDArray[Any], index: npt.NDArray[np.int32], pointer: IntArray, shape: tuple[int, int]
) -> sparse.csr_array:
    """CSR of sorted rows; SciPy copies indices whose type is not the pointer's."""
    small = pointer[-1] <= np.iinfo(np.int32).max
    result = sparse.csr_array((values, index, pointer.astype(np.int32) if small else pointer), shape=shape)
    result.has_canonical_format = True
    return result


def propagate_dense(
    block: npt.NDArray[np.floating], children: npt.NDArray[np.integer], parents: npt.NDArray[np.integer]
) -> None:
    """Propagate by maximum, in place, on [n, terms]; edges deepest child first (`Ontology.edges`, `subset_edges`)."""
    propagate_block(block, np.asarray(children, np.int32), np.asarray(parents, np.int32))


def information_accretion(labels: sparse.csr_array, ontology: Ontology) -> FloatArray:
    """-log2 P(term | all its parents) in bits, from propagated labels; 0 for terms without parents.

    Both counts get one pseudo-record that carries every term, as in the CAFA Information Accretion
    tool (Clark and Radivojac 2013, doi:10.1093/bioinformatics/btt228), so that unseen terms stay
    finite.

    Args:
        labels: propagated boolean CSR [protein, len(ontology)].
        ontology: names the columns.

    Returns:
        Bits, one per term, >= 0.
    """
    with_term, _with_any, with_all = _counts(labels, ontology)
    orphan = np.diff(ontology.parent_rows[0]) == 0
    bits: FloatArray = np.where(orphan, 0.0, np.log2(with_all + 1.0) - np.log2(with_term + 1.0)).astype(np.float32)
    return bits


def term_priors(labels: sparse.csr_array, ontology: Ontology) -> tuple[FloatArray, FloatArray]:
    """P(term) over all proteins, and P(term | the protein has a parent of it), per term; 0 where undefined.

    Parentless terms are conditioned on nothing: both numbers are equal.
    """
    with_term, with_any, _with_all = _counts(labels, ontology)
    orphan = np.diff(ontology.parent_rows[0]) == 0
    raw = with_term / max(1, labels.shape[0])
    conditional = np.where(orphan, raw, with_term / np.maximum(1, with_any))
    return raw.astype(np.float32), conditional.astype(np.float32)


def _counts(labels: sparse.csr_array, ontology: Ontology) -> tuple[IntArray, IntArray, IntArray]:
    """Proteins that have each term, any of its parents, and all of its parents."""
    columns = labels.astype(np.bool_).tocsc()
    columns.sum_duplicates()
    rows = columns.indptr.astype(np.int64), columns.indices.astype(np.int32)
    return np.diff(rows[0]), *count_parents(rows, labels.shape[0], ontology.parent_rows)
