"""The quality page: one self-contained HTML file beside the figures as JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from services.train.evaluation_report import NAMES
from services.train.quality.figures import models_figure, reliability_figure
from services.train.stages.stage_09_submission import FIGURES, NAIVE, STACKER
from shared.atomic import write_bytes, write_json
from shared.ontology import ASPECTS

PAGE, DOCUMENT = "index.html", "quality.json"
TITLES = {"val": "Validation proteins: whole homology clusters held out", "test": "Test proteins"}
METRICS = {
    "fmax": "Fmax",
    "fmax_w": "weighted Fmax",
    "smin": "Smin (bits)",
    "aupr": "AUPR",
    "coverage": "coverage",
    "ece": "ECE",
}


def write_page(folder: Path, run_folder: Path, document: Mapping[str, Any]) -> Path:
    """Write `quality.json` and `index.html` into `folder`; returns the page.

    Args:
        folder: made where it is missing.
        run_folder: holds the run's own figures.
        document: what `measure` gave, with `ablations` where there are any.
    """
    write_json(folder / DOCUMENT, document)
    pictures = {
        label: {
            "models": _inline(models_figure(part["fmax_w"], STACKER)),
            "reliability": _inline(reliability_figure(part["reliability"])),
        }
        for label, part in document["parts"].items()
    }
    curves = {
        aspect: _inline(path.read_bytes()) for aspect, name in FIGURES.items() if (path := run_folder / name).is_file()
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda value: "–" if value is None else f"{value:.3f}"
    text = environment.get_template("page.html.j2").render(
        document=document,
        pictures=pictures,
        curves=curves,
        aspects=ASPECTS,
        names=NAMES,
        titles=TITLES,
        metrics=METRICS,
        stacker=STACKER,
        naive=NAIVE,
    )
    write_bytes(folder / PAGE, text.encode())
    return folder / PAGE


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
