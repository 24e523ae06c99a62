"""Everything that the page shows about one term, gathered from its explanations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.xai_worker.exports import Explained
from services.xai_worker.report.drawings import (
    SPARK_HEIGHT,
    SPARK_WIDTH,
    Bars,
    Curve,
    Waterfall,
    bars_of,
    curve_of,
    share_segments,
    waterfall_of,
)
from services.xai_worker.report.gates import Gate, gates_of
from services.xai_worker.report.graph import Drawing, drawing_of
from services.xai_worker.report.heatmap import HeatMap, heatmap_of
from services.xai_worker.report.summary import MODEL_ORDER, Summary, residues_text, summary_of
from services.xai_worker.report.text import signed, source_name
from services.xai_worker.report.view import Block, Chart, Track, blocks_of, chart_of, track_of
from services.xai_worker.result import (
    AccountExplanation,
    AnyExplanation,
    ChannelExplanation,
    CounterfactualExplanation,
    ModalityExplanation,
    MutationExplanation,
    NeighbourExplanation,
    PathExplanation,
    ResidueExplanation,
)

MAX_MARKS = 60
SHARE_WIDTH = 220.0


@dataclass(frozen=True, slots=True)
class Section:
    """One term of one protein, ready for the templates."""

    explanations: list[AnyExplanation]
    summary: Summary
    residues: list[ResidueExplanation]
    tracks: list[Bars]
    blocks: list[Block]
    main: Track | None
    spark: Bars | None
    gates: list[tuple[AnyExplanation, list[Gate]]]
    charts: list[Chart]
    falls: list[tuple[AnyExplanation, Waterfall]]
    curves: list[tuple[ResidueExplanation, Curve]]
    heatmaps: list[HeatMap]
    paths: list[tuple[PathExplanation, Drawing]]
    carried: list[tuple[int, str]]

    @property
    def first(self) -> AnyExplanation:
        """Any explanation: they agree on protein, term and probability."""
        return self.explanations[0]

    @property
    def groups(self) -> list[tuple[str, list[int]]]:
        """Places of tracks: those of the model that speaks for the term, and the others."""
        own = [at for at, item in enumerate(self.residues) if item.model == self.residues[0].model]
        others = [at for at in range(len(self.residues)) if at not in own]
        return [("", own), *([("Other models", others)] if others else [])]

    def of_kind(self, kind: str) -> list[Any]:
        """The explanations of one kind."""
        return [item for item in self.explanations if item.kind == kind]

    @property
    def headline(self) -> str:
        """The first residues of the track that speaks for the term."""
        return "" if self.summary.main is None else residues_text(self.summary.main)

    @property
    def strip(self) -> list[tuple[float, float, int]]:
        """The evidence as a stacked strip."""
        return share_segments([share.value for share in self.summary.shares], SHARE_WIDTH)


def section_of(explanations: list[AnyExplanation], explained: Explained) -> Section:
    """Work out all drawings of one term."""
    summary = summary_of(explanations)
    residues = [item for item in explanations if isinstance(item, ResidueExplanation)]
    if summary.main is not None:
        residues.sort(key=lambda item: item is not summary.main)
    term = explanations[0].term
    main = None if summary.main is None else track_of(summary.main)
    return Section(
        explanations=explanations,
        summary=summary,
        residues=residues,
        tracks=[bars_of(item) for item in residues],
        blocks=[] if main is None else list(blocks_of([main])),
        main=main,
        spark=None if summary.main is None else bars_of(summary.main, SPARK_WIDTH, SPARK_HEIGHT),
        gates=[(item, gates_of(item)) for item in [*residues, *_others(explanations)]],
        charts=[chart_of(item) for item in explanations if isinstance(item, ChannelExplanation)],
        falls=[
            (item, waterfall_of(item))
            for item in explanations
            if isinstance(item, ModalityExplanation | AccountExplanation)
        ],
        curves=[
            (item, curve_of(item.gates.faithfulness))
            for item in residues
            if item.gates.faithfulness is not None and item.gates.faithfulness.curve
        ],
        heatmaps=_heatmaps(explained, term),
        paths=[(item, drawing_of(item)) for item in explanations if isinstance(item, PathExplanation) and item.nodes],
        carried=_carried(explanations),
    )


def page_data(explained: Explained, sections: Sequence[Section]) -> dict[str, Any]:
    """What the page's script reads: values to show under the pointer, to download and to colour a structure with."""
    structure = explained.structure
    return {
        "protein": explained.protein,
        "sequence": explained.sequence,
        "terms": [
            {
                "term": found.first.term,
                "name": found.first.term_name,
                "tracks": [
                    {"model": item.model, "method": item.method, "values": item.values} for item in found.residues
                ],
                "heatmaps": [
                    {"alphabet": item.alphabet, "values": item.values, "limit": item.limit} for item in found.heatmaps
                ],
            }
            for found in sections
        ],
        "structure": None
        if structure is None
        else {
            "format": structure.extension,
            "text": structure.content.decode("utf-8", "replace"),
            "places": [[at, p.chain, p.number, p.insertion] for at, p in sorted(structure.places.items())],
        },
    }


def headline(item: AnyExplanation) -> str:
    """One line for the index."""
    if isinstance(item, ResidueExplanation):
        return residues_text(item)
    if isinstance(item, ModalityExplanation):
        best = sorted(item.shares, key=lambda share: -abs(share.value))[:3]
        return ", ".join(f"{source_name(share.modality)} {signed(share.value, 2)}" for share in best)
    if isinstance(item, AccountExplanation):
        parts = sorted(item.parts, key=lambda part: -abs(part.value))[:3]
        return ", ".join(f"{source_name(part.source)} {signed(part.value, 2)}" for part in parts)
    if isinstance(item, MutationExplanation):
        return " ".join(f"{m.residue}{m.position}{m.substitution}" for m in item.lowering[:4])
    if isinstance(item, NeighbourExplanation):
        best_neighbours = sorted(item.neighbours, key=lambda n: -abs(n.share))[:3]
        return ", ".join(f"{n.protein} {signed(n.share, 2)}" for n in best_neighbours)
    if isinstance(item, PathExplanation):
        return " from ".join(item.path)
    if isinstance(item, CounterfactualExplanation):
        names = ", ".join(part.name for part in item.removed)
        return f"without {names}: {item.after:.2g}" if item.found else "not found"
    return ""


def _heatmaps(explained: Explained, term: str) -> list[HeatMap]:
    """The one that shows most first: of the final model before others, of the most positions."""
    tables = [table for table in explained.mutations if table.term == term]
    tables.sort(key=lambda table: (table.model != MODEL_ORDER[0], -len(table.rows), table.model, table.method))
    return [heatmap_of(table, explained.sequence) for table in tables]


def _others(explanations: Sequence[AnyExplanation]) -> list[AnyExplanation]:
    return [item for item in explanations if not isinstance(item, ResidueExplanation)]


def _carried(explanations: Sequence[AnyExplanation]) -> list[tuple[int, str]]:
    """Positions that are aligned with a known site of a neighbour, and what to say of each."""
    found: dict[int, list[str]] = {}
    for item in explanations:
        if isinstance(item, NeighbourExplanation):
            for neighbour in item.neighbours:
                for site in neighbour.sites:
                    said = f"{neighbour.protein} {site.neighbour_residue}{site.neighbour_position}"
                    found.setdefault(site.position, []).append(f"{site.residue}{site.position} is aligned with {said}")
    return [(position, "; ".join(texts)) for position, texts in sorted(found.items())][:MAX_MARKS]
