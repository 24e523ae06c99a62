"""How the page writes numbers and names."""

from __future__ import annotations

NAMES = {
    "esm2": "sequence (ESM-2)", "t5": "sequence (ProtT5)", "cnn": "sequence (CNN)", "text": "text", "words": "text",
    "taxon": "taxon", "goa": "annotations (GOA)", "homology": "homologues", "knn": "neighbours", "cross": "other aspects",
}  # fmt: skip


def signed(value: float, digits: int = 4) -> str:
    """A number with its sign and so many significant digits; the minus sign is as wide as the plus."""
    return f"{value:+.{digits}g}".replace("-", "\u2212") if value else "0"


def probability_text(value: float) -> str:
    """Three digits; what would round to 0 or 1 says so."""
    if value > 0.999:
        return "> 0.999"
    return "< 0.001" if value < 0.001 else f"{value:.3g}"


def source_name(source: str) -> str:
    """A modality, a channel or an input as people call it: `residues:esm2`, `level1:cnn`, `goa:IEA`, `votes:knn`."""
    kind, _, own = source.partition(":")
    if not own:
        return NAMES.get(source, source)
    if kind == "residues":
        return NAMES.get(own, f"sequence ({own})")
    if kind == "votes":
        return NAMES.get(own, f"votes ({own})")
    return {"goa": f"annotations ({own})", "level1": f"model {own}"}.get(kind, source)
