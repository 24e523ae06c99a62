"""HTML pages without any outside reference: styles, scripts and pictures stand in the page, and nothing else may load."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from services.xai_worker.exports import Explained
from services.xai_worker.naming import safe_name
from services.xai_worker.provenance import Provenance
from services.xai_worker.report import drawings, graph, section, view
from services.xai_worker.report.gates import gates_of
from services.xai_worker.report.summary import residues_text
from services.xai_worker.report.text import probability_text, signed, source_name
from services.xai_worker.report.ui import bundle
from services.xai_worker.result import DISCLAIMER, AnyExplanation, ChannelExplanation, ResidueExplanation

FOLDER = Path(__file__).parent
# The libraries' elements set style attributes on themselves; no text of ours becomes one.
_LIBRARY_STYLES = "; style-src-attr 'unsafe-inline'"


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What the index says of one explanation.

    Attributes:
        report: path of the protein's page, relative to the index.
        rests_on: the strongest residues or parts, as text.
        gates: names by verdict.
        converged: None where nothing had to sum up.
    """

    protein: str
    term: str
    term_name: str
    aspect: str
    model: str
    method: str
    probability: float | None
    logit: float
    rests_on: str
    gates: Mapping[str, Sequence[str]]
    converged: bool | None
    report: str
    job: str


def index_row(explanation: AnyExplanation, report: str, job: str) -> IndexRow:
    """A row without the explanation itself, of which a job may have many."""
    found: dict[str, list[str]] = {"pass": [], "fail": [], "unknown": []}
    for gate in gates_of(explanation):
        found[gate.status].append(gate.name)
    completeness = explanation.gates.completeness
    return IndexRow(
        protein=explanation.protein,
        term=explanation.term,
        term_name=explanation.term_name,
        aspect=explanation.aspect,
        model=explanation.model,
        method=explanation.method,
        probability=explanation.score.probability,
        logit=explanation.score.logit,
        rests_on=_rests_on(explanation),
        gates=found,
        converged=None if completeness is None else completeness.converged,
        report=report,
        job=job,
    )


def _rests_on(item: AnyExplanation) -> str:
    if isinstance(item, ResidueExplanation):
        return residues_text(item)
    if isinstance(item, ChannelExplanation):
        totals: dict[str, float] = {}
        for part in item.parts:
            totals[part.channel] = totals.get(part.channel, 0.0) + part.value
        best = sorted(totals.items(), key=lambda pair: (-abs(pair[1]), pair[0]))[:3]
        return ", ".join(f"{source_name(channel)} {signed(value, 2)}" for channel, value in best)
    return section.headline(item)


def report_name(protein: str) -> str:
    """A file name for the protein's page."""
    return f"{safe_name(protein)}.html"


def render_report(
    explained: Explained, provenance: Provenance, exports: Mapping[str, Sequence[str]] | None = None
) -> str:
    """The page of one protein.

    Args:
        explained: every explanation of the protein.
        provenance: of the job.
        exports: format -> files written, relative to the job's folder, to link to.
    """
    ordered = sorted(explained.explanations, key=lambda item: item.term)
    sections = [section.section_of(list(group), explained) for _, group in groupby(ordered, key=lambda item: item.term)]
    sections.sort(key=lambda found: (-(found.first.score.probability or 0.0), found.first.term))
    data = section.page_data(explained, sections)
    return (
        _environment()
        .get_template("report.html")
        .render(
            protein=explained.protein,
            name=explained.name,
            length=len(explained.sequence),
            sections=sections,
            structure=explained.structure,
            data=_inline_json(data),
            ticks=drawings.ruler_ticks(len(explained.sequence)),
            exports=exports or {},
            zoom=bundle.built("tracks"),
            **_frame(provenance, bundle.scripts(("tracks",) if explained.structure is None else ("viewer", "tracks"))),
        )
    )


def render_index(
    rows: Sequence[IndexRow],
    provenance: Provenance,
    localisation: Mapping[str, Any] | None = None,
    *,
    jobs: Mapping[str, str] | None = None,
) -> str:
    """The table of all explanations of a job, to sort and to search; with `jobs` (name -> its index), of several jobs of a run."""
    values = {"rows": rows, "localisation": localisation, "jobs": jobs, **_frame(provenance, [])}
    return _environment().get_template("index.html").render(**values)


def _inline_json(value: Any) -> Markup:
    """JSON that cannot end its script element; `<` occurs in JSON only inside texts, which may escape it."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def _frame(provenance: Provenance, libraries: Sequence[str]) -> dict[str, Any]:
    style = f"{(FOLDER / 'style.css').read_text(encoding='utf-8')}\n{view.colour_css()}\n"
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    scripts = [*libraries, script]
    sources = " ".join(f"'{_source(text)}'" for text in scripts)
    return {
        "provenance": provenance,
        "untrained": [item for item in provenance.encoders if item.weights.startswith("random-init")],
        "disclaimer": DISCLAIMER,
        # All of these are our own files; their hashes are all that the page's policy lets run.
        "style": Markup(style),  # noqa: S704
        "scripts": [Markup(text) for text in scripts],  # noqa: S704
        "policy": (
            f"default-src 'none'; style-src '{_source(style)}'{_LIBRARY_STYLES if libraries else ''}; "
            f"script-src {sources}; img-src data:; base-uri 'none'; form-action 'none'"
        ),
    }


def _source(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates", encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["signed"] = signed
    environment.filters["probability"] = probability_text
    environment.filters["source"] = source_name
    environment.filters["number"] = lambda value: f"{value:.4g}"
    environment.filters["strongest"] = lambda pairs: max(pairs, key=lambda pair: abs(pair.value))
    environment.filters["percent"] = lambda value: f"{100 * value:.3g} %"
    environment.filters["px"] = lambda value: f"{value:.1f}".removesuffix(".0")
    environment.globals.update(drawings=drawings, graph=graph, view=view)
    return environment
