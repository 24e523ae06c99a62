"""A diagnosis on disk: a PNG per figure, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg

from services.train.diagnostics import Report
from services.train.diagnostics_figures import size_text
from shared.atomic import write_bytes

PAGE = "index.html"
TEMPLATES = Path(__file__).parent / "templates"


def write_page(report: Report, folder: Path) -> list[Path]:
    """Write the figures and then the page; returns their paths, the page last.

    Raises:
        CannotWrite: the folder is read-only or the disk full.
    """
    images = {}
    for name, figure in report.figures().items():
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
        images[name] = buffer.getvalue()
        write_bytes(folder / f"{name}.png", images[name])
    write_bytes(folder / PAGE, render(report, images).encode())
    return [*(folder / f"{name}.png" for name in images), folder / PAGE]


def render(report: Report, images: dict[str, bytes]) -> str:
    """The page; images stand in it, and its policy lets nothing load."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["size"] = size_text
    encoded = {name: base64.b64encode(data).decode() for name, data in images.items()}
    return environment.get_template("diagnostics.html").render(report=report, images=encoded)
