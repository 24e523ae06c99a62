"""Figures of an evaluation: precision against recall, one PNG per aspect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from services.train.evaluation import Metrics

NAMES = {"MF": "Molecular function", "BP": "Biological process", "CC": "Cellular component"}
# Okabe and Ito's colours can be told apart with every kind of colour vision.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
DPI = 120


def figures(paths: Mapping[str, Path], models: Mapping[str, Mapping[str, Metrics]]) -> None:
    """Draw the precision-recall points of every model, one figure per aspect.

    Equal metrics give equal bytes: nothing in the file tells time or software.

    Args:
        paths: aspect -> PNG to write.
        models: model -> aspect -> metrics; curves weighted by information where there are weights.
    """
    for aspect, path in paths.items():
        _figure(path, aspect, {name: metrics[aspect] for name, metrics in models.items() if aspect in metrics})


def _figure(path: Path, aspect: str, models: Mapping[str, Metrics]) -> None:
    # Matplotlib takes a second to load, which only a figure should cost; no pyplot, so no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(6, 5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for place, (name, metrics) in enumerate(models.items()):
        colour = COLOURS[place % len(COLOURS)]
        curve = metrics.weighted or metrics.curve
        best = metrics.fmax_w if metrics.weighted else metrics.fmax
        used = curve.covered > 0
        if best is None or not used.any():
            continue
        axes.plot(curve.recall[used], curve.precision[used], color=colour, label=f"{name} (Fmax {best:.3f})")
        peak = int(np.argmax(np.where(used, curve.f, -1.0)))
        axes.plot(curve.recall[peak], curve.precision[peak], "o", color=colour)
    proteins = max((metrics.n for metrics in models.values()), default=0)
    weighted = all(metrics.weighted for metrics in models.values())
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="Recall" + (", weighted by information" if weighted else ""),
        ylabel="Precision" + (", weighted by information" if weighted else ""),
        title=f"{NAMES[aspect]}: {proteins} proteins",
    )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", frameon=False)
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})
