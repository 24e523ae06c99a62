"""MolViewSpec (tree schema v1, .mvsj): a scene that Mol* opens, with the colours in a JSON file beside it.

The colours are rows of the `auth_residue` schema: the numbers that stand in the structure's own records, right for
PDB and mmCIF alike. URLs are relative: the structure that was given lies beside the scene.
`metadata.timestamp` is required; it is a constant, so that equal requests give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from services.xai_worker.colours import UNSEEN, hexadecimal, of_value
from services.xai_worker.exports.base import Explained, Track
from services.xai_worker.structure import Structure
from shared.digests import canonical_json

SCHEMA = "auth_residue"
NO_TIME = "1970-01-01T00:00:00Z"


class MolViewSpec:
    """Scenes, only where a structure was given: a scene without one shows nothing."""

    name, what = "molviewspec", "scenes for Mol*, where a structure was given"

    def files(self, protein: Explained) -> Iterator[tuple[str, bytes]]:
        """The structure, and per explanation a scene and its colours."""
        structure = protein.structure
        if structure is None:
            return
        file = f"structure.{structure.extension}"
        yield f"{protein.name}/{file}", structure.content
        for track in protein.tracks:
            colours = f"{track.attribute}.colours.json"
            yield f"{protein.name}/{colours}", canonical_json(_rows(structure, track)) + b"\n"
            scene = canonical_json(_scene(structure, track, file, colours))
            yield f"{protein.name}/{track.attribute}.mvsj", scene + b"\n"


def _rows(structure: Structure, track: Track) -> list[dict[str, Any]]:
    limit = track.limit
    found = []
    for position, residue, value in track.values():
        place = structure.places.get(position)
        if place is not None:
            row: dict[str, Any] = {"auth_asym_id": place.chain, "auth_seq_id": place.number}
            if place.insertion:
                row["pdbx_PDB_ins_code"] = place.insertion
            row["color"] = hexadecimal(of_value(value, limit))
            row["tooltip"] = f"{residue}{position} {value:+.6g}"
            row["gowhy"] = {"position": position, "residue": residue, "value": value}
            found.append(row)
    return found


def _scene(structure: Structure, track: Track, file: str, colours: str) -> dict[str, Any]:
    source = {"uri": colours, "format": "json", "schema": SCHEMA}
    cartoon = _node(
        "representation",
        {"type": "cartoon"},
        _node("color", {"color": hexadecimal(UNSEEN)}),
        _node("color_from_uri", {**source, "field_name": "color"}),
    )
    component = _node("component", {"selector": "polymer"}, cartoon)
    tooltips = _node("tooltip_from_uri", {**source, "field_name": "tooltip"})
    model = _node("structure", {"type": "model"}, component, tooltips)
    parsed = _node("parse", {"format": structure.format}, model)
    root = {"kind": "root", "children": [_node("download", {"url": file}, parsed)]}
    return {"metadata": {"version": "1", "title": track.label, "timestamp": NO_TIME}, "root": root}


def _node(kind: str, params: dict[str, Any], *children: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = {"kind": kind, "params": params}
    return {**node, "children": list(children)} if children else node
