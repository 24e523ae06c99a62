"""The explained term and its ancestors as a drawing: roots at the top, one layer per longest way from a root."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import wrap

from services.xai_worker.result import PathExplanation

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 212.0, 66.0, 18.0, 36.0
LETTERS_A_LINE, MAX_LINES = 28, 2


@dataclass(frozen=True, slots=True)
class Box:
    """A term. `role` is explained, path (gave it its probability) or above."""

    term: str
    lines: list[str]
    figure: str
    x: float
    y: float
    role: str
    fill: float  # 0 to 1
    tip: str


@dataclass(frozen=True, slots=True)
class Wire:
    """A child-parent edge as a curve from the child's top to the parent's bottom."""

    path: str
    on_path: bool


@dataclass(frozen=True, slots=True)
class Drawing:
    """Boxes and wires with the size of the whole."""

    boxes: list[Box]
    wires: list[Wire]
    width: float
    height: float
    said: str


def drawing_of(item: PathExplanation) -> Drawing:
    """Lay the graph out. Layers are short, so that order by the parents' places keeps most wires apart."""
    layer = _layers(item)
    rows: dict[int, list[str]] = {}
    for node in item.nodes:
        rows.setdefault(layer[node.term], []).append(node.term)
    parents = {node.term: [p for c, p in item.edges if c == node.term] for node in item.nodes}
    widest = max(len(row) for row in rows.values())
    width = widest * BOX_WIDTH + (widest - 1) * GAP_X
    place: dict[str, tuple[float, float]] = {}
    for depth in sorted(rows):
        row = sorted(rows[depth], key=lambda term: (_mean([place[p][0] for p in parents[term] if p in place]), term))
        used = len(row) * BOX_WIDTH + (len(row) - 1) * GAP_X
        for index, term in enumerate(row):
            place[term] = ((width - used) / 2 + index * (BOX_WIDTH + GAP_X), depth * (BOX_HEIGHT + GAP_Y))
    chain = set(zip(item.path[1:], item.path[:-1], strict=True))
    boxes = []
    for node in item.nodes:
        role = "explained" if node.term == item.term else "path" if node.term in item.path else "above"
        lines = wrap(node.name, LETTERS_A_LINE, max_lines=MAX_LINES, placeholder="…") or [node.term]
        figure = f"{node.probability:.3f}" + ("" if node.own == node.probability else f" (own {node.own:.3f})")
        tip = f"{node.term} {node.name}: {node.probability:.3g} after propagation, {node.own:.3g} by itself"
        boxes.append(Box(node.term, lines, figure, *place[node.term], role, min(1.0, max(0.0, node.probability)), tip))
    wires = [
        Wire(_wire(place[child], place[parent]), (child, parent) in chain)
        for child, parent in item.edges
        if child in place and parent in place
    ]
    height = max(rows) * (BOX_HEIGHT + GAP_Y) + BOX_HEIGHT
    return Drawing(boxes, wires, width, height, _sentence(item))


def _layers(item: PathExplanation) -> dict[str, int]:
    """Longest way from a root; the ontology has no cycles, and a document that claims one is cut at its size."""
    depth = {node.term: 0 for node in item.nodes}
    for _ in item.nodes:
        changed = False
        for child, parent in item.edges:
            if child in depth and parent in depth and depth[child] < depth[parent] + 1 <= len(depth):
                depth[child], changed = depth[parent] + 1, True
        if not changed:
            break
    used = {old: new for new, old in enumerate(sorted(set(depth.values())))}
    return {term: used[value] for term, value in depth.items()}


def _wire(child: tuple[float, float], parent: tuple[float, float]) -> str:
    x1, y1 = child[0] + BOX_WIDTH / 2, child[1]
    x2, y2 = parent[0] + BOX_WIDTH / 2, parent[1] + BOX_HEIGHT
    middle = (y1 + y2) / 2
    return f"M{x1:.0f} {y1:.0f}C{x1:.0f} {middle:.0f} {x2:.0f} {middle:.0f} {x2:.0f} {y2:.0f}"


def _sentence(item: PathExplanation) -> str:
    names = {node.term: node.name for node in item.nodes}
    if item.lowest is not None:
        highest, lowest = (names.get(term, term) for term in (item.path[-1], item.lowest))
        share = f"{item.descendant_share:.0%}"
        return f"The probability is {share} of what {highest} has by itself, and the rest of what {lowest} has."
    if len(item.path) <= 1:
        return "The term has its own probability: no descendant scored higher."
    return f"The term has its probability from a descendant, {names.get(item.path[-1], item.path[-1])}, by the true-path rule."


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
