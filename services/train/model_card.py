"""The model card of a published model: what it is, what it was measured at, and what it is not good for."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from shared.manifest import Manifest
from shared.ontology import ASPECTS

TEMPLATES = Path(__file__).parent / "templates"
KEYS = ("fmax", "fmax_w", "smin", "aupr", "coverage", "ece")
GENERATED = ("demo", "smoke")  # data sets without a real protein
STACKER, NAIVE = "gcn", "naive"


def model_card(manifest: Manifest, *, repo: str, terms: int, models: list[str], license_id: str) -> str:
    """The card as Markdown with the Hub's front matter; the same run gives the same bytes.

    Args:
        manifest: of a complete run.
        repo: `owner/name` on the Hub.
        terms: how many the stacker knows.
        models: level-1 models in it.
        license_id: of the weights, as the Hub spells it.
    """
    figures = {label: manifest.metrics.get(label) or {} for label in ("val", "test")}
    return (
        _environment()
        .get_template("model_card.md.j2")
        .render(
            manifest=manifest,
            repo=repo,
            terms=terms,
            models=models,
            license=license_id,
            random_encoders=[e.arch for e in manifest.encoder if e.weights.startswith("random-init")],
            generated=manifest.dataset.name in GENERATED,
            figures={label: found.get(STACKER, {}) for label, found in figures.items()},
            naive={label: found.get(NAIVE, {}) for label, found in figures.items()},
            aspects=ASPECTS,
            keys=KEYS,
        )
    )


def _figure(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}"


@cache
def _environment() -> Environment:
    # Markdown, not HTML: the Hub cleans what it renders, and every value is a number or a checked name.
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = _figure
    return environment
