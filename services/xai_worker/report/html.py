"""HTML pages without any outside reference: styles and script stand in the page, and nothing else may load."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from services.xai_worker.explainers.stacker_parts import RELATIONS
from services.xai_worker.provenance import Provenance
from services.xai_worker.report.view import BAR_HEIGHT, BAR_WIDTH, blocks_of, chart_of, colour_css, track_of
from services.xai_worker.result import DISCLAIMER, AnyExplanation, ChannelExplanation, ResidueExplanation
from shared.digests import sha256_bytes

FOLDER = Path(__file__).parent
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One explanation in the index."""

    explanation: AnyExplanation
    report: str  # relative path of the protein's page

    @property
    def rests_on(self) -> str:
        """The strongest residues or channels, as text."""
        if isinstance(self.explanation, ResidueExplanation):
            return " ".join(f"{item.residue}{item.position}" for item in self.explanation.top[:5])
        if not isinstance(self.explanation, ChannelExplanation):
            return ""
        totals: dict[str, float] = {}
        for part in self.explanation.parts:
            totals[part.channel] = totals.get(part.channel, 0.0) + part.value
        best = sorted(totals.items(), key=lambda item: (-abs(item[1]), item[0]))[:3]
        return ", ".join(f"{channel} {value:+.2g}" for channel, value in best)


def report_name(protein: str) -> str:
    """A file name for the protein's page: its id where that is safe, else a safe part of it and a digest."""
    if _SAFE_NAME.fullmatch(protein):
        return f"{protein}.html"
    kept = re.sub(r"[^A-Za-z0-9_-]+", "_", protein)[:40].strip("_-") or "protein"
    return f"{kept}-{sha256_bytes(protein.encode())[:12]}.html"


def render_report(explanations: Sequence[AnyExplanation], sequence: str, provenance: Provenance) -> str:
    """The page of one protein; all explanations are of that protein."""
    ordered = sorted(explanations, key=lambda item: item.term)
    sections = [_section(list(group)) for _, group in groupby(ordered, key=lambda item: item.term)]
    sections.sort(key=lambda section: (-(section["first"].score.probability or 0.0), section["first"].term))
    return (
        _environment()
        .get_template("report.html")
        .render(
            protein=explanations[0].protein,
            length=len(sequence),
            sections=sections,
            relations=RELATIONS,
            bar_width=BAR_WIDTH,
            bar_height=BAR_HEIGHT,
            **_frame(provenance),
        )
    )


def render_index(rows: Sequence[IndexRow], provenance: Provenance, localisation: Mapping[str, Any] | None) -> str:
    """The table of all explanations of a job."""
    return _environment().get_template("index.html").render(rows=rows, localisation=localisation, **_frame(provenance))


def _section(explanations: list[AnyExplanation]) -> dict[str, Any]:
    tracks = [track_of(item) for item in explanations if isinstance(item, ResidueExplanation)]
    return {
        "first": explanations[0],
        "explanations": explanations,
        "tracks": tracks,
        "blocks": list(blocks_of(tracks)) if tracks else [],
        "charts": [chart_of(item) for item in explanations if isinstance(item, ChannelExplanation)],
    }


def _frame(provenance: Provenance) -> dict[str, Any]:
    style = f"{(FOLDER / 'style.css').read_text(encoding='utf-8')}\n{colour_css()}\n"
    script = (FOLDER / "keys.js").read_text(encoding="utf-8")
    return {
        "provenance": provenance,
        "disclaimer": DISCLAIMER,
        # Both files are ours; their hashes are all that the page's policy lets run.
        "style": Markup(style),  # noqa: S704
        "script": Markup(script),  # noqa: S704
        "policy": f"default-src 'none'; style-src '{_source(style)}'; script-src '{_source(script)}'; base-uri 'none'; form-action 'none'",
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
    environment.filters["signed"] = lambda value: f"{value:+.4g}" if value else "0"
    environment.filters["number"] = lambda value: f"{value:.4g}"
    return environment
