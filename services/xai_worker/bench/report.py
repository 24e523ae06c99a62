"""The benchmark's files: a table to read, one to compute with, and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.xai_worker.bench.base import Check, Figure, Row, Section
from services.xai_worker.result import round_significant
from shared.atomic import write_json


def write(folder: Path, model_sha256: str, sections: Mapping[str, Section]) -> None:
    """Write bench.json, bench.md and a figure (SVG, PNG) for every plot; all name the model's hash."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "model_sha256": model_sha256,
        "sections": {
            name: {
                "title": section.title,
                "text": section.text,
                "rows": [_plain(row) for row in section.rows],
                "checks": [
                    {"name": c.name, "passed": c.passed, "measured": c.measured, "wanted": c.wanted}
                    for c in section.checks
                ],
            }
            for name, section in sections.items()
        },
    }
    write_json(folder / "bench.json", document)
    (folder / "bench.md").write_text(markdown(model_sha256, sections), encoding="utf-8")
    for section in sections.values():
        for figure in section.figures:
            draw(folder, figure, model_sha256)


def markdown(model_sha256: str, sections: Mapping[str, Section]) -> str:
    """Tables of every section."""
    lines = ["# Benchmark of explanations", "", f"Model: `{model_sha256}`", ""]
    for section in sections.values():
        lines += [f"## {section.title}", "", section.text, ""]
        lines += _table(section.rows)
        lines += _table([_check_row(check) for check in section.checks])
    return "\n".join(lines) + "\n"


def verdict(checks: Sequence[Check]) -> tuple[bool, str]:
    """Whether every gate that could be measured passed, and the last line of the benchmark."""
    measured = [check for check in checks if check.passed is not None]
    failed = [check.name for check in measured if not check.passed]
    if failed:
        return False, f"FAIL {len(measured) - len(failed)}/{len(measured)}: {', '.join(failed)}"
    return True, f"PASS {len(measured)}/{len(measured)}"


def draw(folder: Path, figure: Figure, model_sha256: str) -> None:
    """One figure; colours of Okabe and Ito, told apart with every common colour vision."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and only the benchmark draws

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "gowhy"
    from matplotlib import pyplot as plt  # noqa: PLC0415

    colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
    plot, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    names = list(dict.fromkeys(x for points in figure.series.values() for x, _ in points))
    for number, (label, points) in enumerate(figure.series.items()):
        colour = colours[number % len(colours)]
        if figure.kind == "bars":
            height = 0.8 / len(figure.series)
            places = [names.index(x) + number * height for x, _ in points]
            axes.barh(places, [y for _, y in points], height, color=colour, label=label)
        else:
            axes.plot([names.index(x) for x, _ in points], [y for _, y in points], "o-", color=colour, label=label)
    if figure.kind == "bars":
        axes.set_yticks(range(len(names)), [str(name) for name in names])
        axes.invert_yaxis()
        axes.set_xlabel(figure.y_label)
    else:
        axes.set_xticks(range(len(names)), [str(name) for name in names])
        axes.set(xlabel=figure.x_label, ylabel=figure.y_label)
        axes.axhline(0, color="0.7", linewidth=0.8)
    axes.set_title(figure.title)
    if len(figure.series) > 1:
        axes.legend(fontsize="small")
    plot.text(0.99, 0.005, f"model {model_sha256[:12]}", ha="right", fontsize=6, color="0.4")
    plot.savefig(folder / f"{figure.name}.svg", metadata={"Date": None})
    plot.savefig(folder / f"{figure.name}.png", dpi=150, metadata={"Software": None})
    plt.close(plot)


def _table(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    columns = list(dict.fromkeys(name for row in rows for name in row))
    body = ["| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |" for row in rows]
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns), *body, ""]


def _check_row(check: Check) -> Row:
    said = "not measured" if check.passed is None else "pass" if check.passed else "MISSED"
    return {"gate": check.name, "measured": check.measured, "wanted": check.wanted, "": said}


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(row: Row) -> dict[str, Any]:
    """Rounded, and None for what is not a number."""
    return {
        name: (round_significant(value) if value == value else None) if isinstance(value, float) else value  # noqa: PLR0124
        for name, value in row.items()
    }
