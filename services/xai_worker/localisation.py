"""Do the explanations point at the sites that are known? Average precision against chance.

Area under the ROC curve flatters here (a protein has a handful of sites among hundreds of residues),
so precision is what is averaged. Unannotated is not negative: a figure is a lower bound.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.xai_worker.explainers.occlusion import Occlusion
from services.xai_worker.result import ResidueExplanation, round_significant
from shared.errors import DataError, MissingInput

Sites = Mapping[tuple[str, str], frozenset[int]]  # (protein, term) -> positions, 1-based

RANDOM_ORDERS = 100
BOOTSTRAP_DRAWS = 1000
SEED = 29
DEFAULT_METHOD = Occlusion.name
COLUMNS = ("accession", "term", "position")


def read_sites(path: Path) -> dict[tuple[str, str], frozenset[int]]:
    """Read known sites: tab-separated accession, term, position (1-based), with that header.

    Raises:
        MissingInput: no such file.
        DataError: a wrong header or line, with its number.
    """
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            header = next(rows, [])
            if tuple(header[:3]) != COLUMNS:
                raise DataError(f"header is {header}, expected {', '.join(COLUMNS)}", where=f"{path}:1")
            for number, row in enumerate(rows, start=2):
                if len(row) < 3 or not row[2].isdecimal() or int(row[2]) < 1:
                    raise DataError(f"not an accession, a term and a position: {row}", where=f"{path}:{number}")
                found[row[0], row[1]].add(int(row[2]))
    except FileNotFoundError as error:
        raise MissingInput(f"no such file: {path}", remedy="Give a table of known sites with --sites") from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error}", where=str(path)) from error
    return {key: frozenset(positions) for key, positions in sorted(found.items())}


def average_precision(values: npt.NDArray[np.float64], is_site: npt.NDArray[np.bool_]) -> float:
    """Mean precision over the sites when positions are taken by falling value.

    Equal values are taken together, as in scikit-learn's `average_precision_score`. NaN (a residue
    the model never saw) comes after everything else.

    Raises:
        ValueError: there is no site.
    """
    if not is_site.any():
        raise ValueError("average precision needs at least one site")
    filled = np.where(np.isnan(values), -np.inf, values)
    order = np.argsort(-filled, kind="stable")
    hits = is_site[order].cumsum()
    last_of_tie = np.append(filled[order][1:] != filled[order][:-1], True)
    recalled = hits[last_of_tie]
    precision = recalled / (np.flatnonzero(last_of_tie) + 1)
    return float((np.diff(recalled, prepend=0) * precision).sum() / hits[-1])


def random_average_precision(length: int, sites: int, rng: np.random.Generator, orders: int = RANDOM_ORDERS) -> float:
    """Mean average precision of random orders of `length` positions, `sites` of which count."""
    is_site = np.zeros(length, bool)
    is_site[:sites] = True
    return float(np.mean([average_precision(rng.random(length), is_site) for _ in range(orders)]))


@dataclass
class Localisation:
    """Collects average precisions of explanations whose (protein, term) has known sites."""

    sites: Sites
    seed: int = SEED
    _found: dict[tuple[str, str], list[tuple[str, str, float, float, float]]] = field(default_factory=dict)

    def add(self, explanation: ResidueExplanation) -> None:
        """Take one explanation into account; without known sites inside the sequence it is left out.

        Raises:
            DataError: a site lies behind the end of the sequence.
        """
        key = (explanation.protein, explanation.term)
        positions = self.sites.get(key)
        if not positions:
            return
        length = len(explanation.sequence)
        if max(positions) > length:
            raise DataError(f"site {max(positions)} of {key[0]} lies behind its {length} residues", where="--sites")
        is_site = np.zeros(length, bool)
        is_site[[position - 1 for position in positions]] = True
        values = np.array([np.nan if value is None else value for value in explanation.values])
        # The same random orders for every method of a pair, whatever is asked beside it.
        rng = np.random.default_rng([self.seed, *"\t".join(key).encode()])
        chance = random_average_precision(length, len(positions), rng)
        row = (*key, average_precision(values, is_site), is_site.mean().item(), chance)
        self._found.setdefault((explanation.model, explanation.method), []).append(row)

    def summary(self) -> dict[str, Any]:
        """Per (model, method): map, its 95 % interval over pairs, prevalence, random, n, per_term.

        `rankings` has all of them. The first of the default method also stands at the top: chosen by
        name, because choosing it by its figure would flatter.
        """
        rankings = [
            {"model": model, "method": method, **self._summarise(rows), "per_term": self._per_term(rows)}
            for (model, method), rows in sorted(self._found.items())
        ]
        default = next((item for item in rankings if item["method"] == DEFAULT_METHOD), None)
        headline = default or (rankings[0] if rankings else {"n": 0})
        return {"seed": self.seed, "random_orders": RANDOM_ORDERS, **headline, "rankings": rankings}

    def _summarise(self, rows: Sequence[tuple[str, str, float, float, float]]) -> dict[str, Any]:
        precisions, prevalence, chance = (np.array([row[column] for row in rows]) for column in (2, 3, 4))
        draws = np.random.default_rng(self.seed).integers(0, len(rows), (BOOTSTRAP_DRAWS, len(rows)))
        low, high = np.quantile(precisions[draws].mean(axis=1), [0.025, 0.975])
        return {
            "map": round_significant(float(precisions.mean())),
            "ci95": [round_significant(float(low)), round_significant(float(high))],
            "prevalence": round_significant(float(prevalence.mean())),
            "random": round_significant(float(chance.mean())),
            "n": len(rows),
        }

    def _per_term(self, rows: Sequence[tuple[str, str, float, float, float]]) -> dict[str, Any]:
        terms = sorted({row[1] for row in rows})
        return {term: self._summarise([row for row in rows if row[1] == term]) for term in terms}


def headline(summary: Mapping[str, Any]) -> str:
    """The default ranking in one line."""
    if not summary["n"]:
        return "no explained pair has known sites"
    low, high = summary["ci95"]
    return (
        f"{summary['model']} {summary['method']}: MAP {summary['map']:.3f} (95 % {low:.3f} to {high:.3f}), "
        f"random {summary['random']:.3f}, prevalence {summary['prevalence']:.3f}, n {summary['n']}"
    )
