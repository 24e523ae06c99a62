"""Figures of the quality page as PNG bytes: models with intervals, and reliability."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from services.train.evaluation_report import COLOURS, DPI, NAMES
from shared.ontology import ASPECTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def models_figure(fmax: Mapping[str, Mapping[str, Any]], first: str) -> bytes:
    """Weighted Fmax of every model with its 95 % interval, one panel per aspect; `first` stands out."""
    figure = _figure(3.2 * len(ASPECTS), 0.8 + 0.32 * len(fmax))
    panels = figure.subplots(1, len(ASPECTS), sharey=True, squeeze=False)[0]
    names = sorted(fmax, key=lambda name: (name != first, name))[::-1]
    for panel, aspect in zip(panels, ASPECTS, strict=True):
        for height, name in enumerate(names):
            found = fmax[name].get(aspect)
            if found is None:
                continue
            colour = COLOURS[2] if name == first else COLOURS[1]
            panel.plot([found["low"], found["high"]], [height, height], color=colour, linewidth=2)
            panel.plot(found["value"], height, "o", color=colour)
        panel.set(title=NAMES[aspect], xlabel="weighted Fmax", yticks=range(len(names)), yticklabels=names)
        panel.grid(axis="x", alpha=0.3)
    return _png(figure)


def reliability_figure(reliability: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Observed frequency against score, one line per aspect; the diagonal is perfect."""
    figure = _figure(4.5, 4.2)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=COLOURS[7], linestyle="--", linewidth=1)
    for number, aspect in enumerate(ASPECTS):
        bins = reliability[aspect]["bins"]
        if bins:
            label = f"{NAMES[aspect]} (ECE {reliability[aspect]['ece']:.3f})"
            axes.plot([b[0] for b in bins], [b[1] for b in bins], "o-", color=COLOURS[number + 1], label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share that is true")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", frameon=False, fontsize=8)
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    # Matplotlib takes a second to load, which only a figure should cost; no pyplot, so no global state.
    from matplotlib.figure import Figure  # noqa: PLC0415

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
