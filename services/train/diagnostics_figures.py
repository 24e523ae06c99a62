"""The four figures of a diagnosis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from services.train.diagnostics import Report

# Okabe and Ito's colours can be told apart with every kind of colour vision.
BLUE, VERMILION = "#0072B2", "#D55E00"
UNITS = ("B", "kB", "MB", "GB", "TB")
DPI = 110


def draw(report: Report) -> dict[str, Figure]:
    """Name -> figure; no pyplot, so no window and no global state."""
    return {
        "largest_files": largest_files(report),
        "size_distribution": size_distribution(report),
        "row_counts": row_counts(report),
        "stage_timings": stage_timings(report),
    }


def size_text(size: float) -> str:
    """Bytes for a person, in powers of 1000."""
    unit = 0
    while size >= 1000 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {UNITS[unit]}" if unit == 0 or size >= 100 else f"{size:.3g} {UNITS[unit]}"


def largest_files(report: Report) -> Figure:
    """Bars of the largest files."""
    files = report.largest()[::-1]
    return _bars(
        "Largest files",
        [file.path for file in files],
        [file.size / 1e6 for file in files],
        [size_text(file.size) for file in files],
        unit="MB",
    )


def stage_timings(report: Report) -> Figure:
    """Bars of the seconds that each stage took, first stage on top."""
    timings = report.timings[::-1]
    return _bars(
        "Stage times",
        [t.stage for t in timings],
        [t.seconds for t in timings],
        [f"{t.seconds:.0f} s" for t in timings],
        unit="s",
    )


def size_distribution(report: Report) -> Figure:
    """Histogram of file sizes, one bin per power of ten."""
    figure = Figure(figsize=(7, 4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    sizes = [max(1, file.size) for file in report.files]
    exponents = range(max(4, len(str(max(sizes, default=1)))) + 1)
    axes.hist(sizes, bins=[10.0**e for e in exponents], color=BLUE, edgecolor="white")
    axes.set_xscale("log")
    axes.set_xticks([10.0**e for e in exponents], [size_text(10.0**e) for e in exponents])
    axes.set(title=f"Sizes of {len(report.files)} files", xlabel="size", ylabel="files")
    return figure


def row_counts(report: Report) -> Figure:
    """Rows of every array, with the rows that it should have as a line; arrays that disagree stand out."""
    checks = report.rows[::-1]
    colours = [BLUE if check.holds else VERMILION for check in checks]
    wrong = len(report.failed())
    figure = _bars(
        f"Rows: {wrong} of {len(checks)} disagree" if wrong else f"Rows: all {len(checks)} agree",
        [check.path for check in checks],
        [check.rows or 0 for check in checks],
        [f"{check.rows}" if check.holds else f"{check.rows}, not {check.expected}" for check in checks],
        unit="rows; the line is the table's count",
        colours=colours,
    )
    for place, check in enumerate(checks):
        if check.expected is not None:
            figure.axes[0].plot([check.expected] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.5)
    return figure


def _bars(
    title: str, names: list[str], values: list[float], labels: list[str], *, unit: str, colours: list[str] | None = None
) -> Figure:
    figure = Figure(figsize=(8, 1.2 + 0.28 * max(1, len(names))), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(names, values, color=colours or BLUE)
    axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.margins(x=0.15)
    axes.tick_params(axis="y", labelsize=8)
    axes.set(title=title, xlabel=unit)
    if not names:
        axes.text(0.5, 0.5, "nothing to show", ha="center", va="center", transform=axes.transAxes)
    return figure
