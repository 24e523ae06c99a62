"""Every exporter's files, read back by a reader of that format, say what the attribution table says.

Each reader follows the format's specification (cited in the exporter) and returns positions 1-based.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import jsonschema
import pandas as pd
import pytest
from PIL import Image

from services.xai_worker.colours import of_value
from services.xai_worker.exports import EXPORTERS, Explained
from services.xai_worker.exports.figures import PNG_CELL, PNG_ROW
from services.xai_worker.exports.table import table_of
from services.xai_worker.naming import identifier
from services.xai_worker.result import EXPLANATION
from services.xai_worker.structure import read_structure
from tests.fakes.explanations import explained
from tests.fakes.structures import pdb

Key = tuple[str, str, str, int]  # term, model, method, position
Rows = dict[Key, float]
Files = Mapping[str, bytes]
FOLDER = Path(__file__).resolve().parents[2]
HOSTILE = "P1.2|<b>&;=%25,\"x'"


def attribution_table(protein: Explained) -> pd.DataFrame:
    frames = [table_of(track.explanation).to_pandas() for track in protein.tracks]
    return pd.concat(frames, ignore_index=True)


def rows_of(table: pd.DataFrame) -> Rows:
    seen = table[table["value"].notna()]
    keys = zip(seen["term"], seen["model"], seen["method"], seen["position"], strict=True)
    return dict(zip(keys, seen["value"], strict=True))


def texts(files: Files) -> dict[str, str]:
    return {name: content.decode() for name, content in files.items()}


def by_attribute(protein: Explained) -> dict[str, tuple[str, str, str]]:
    return {track.attribute: track.key for track in protein.tracks}


def read_json(files: Files, protein: Explained) -> Rows:
    validator = jsonschema.Draft202012Validator(json.loads((FOLDER / "schema/explanation.v1.json").read_bytes()))
    found: Rows = {}
    (content,) = files.values()
    for document in json.loads(content):
        validator.validate(document)
        EXPLANATION.validate_python(document)
        if document["kind"] == "residues":
            for position, value in enumerate(document["values"], start=1):
                if value is not None:
                    found[document["term"], document["model"], document["method"], position] = value
    return found


def read_parquet(files: Files, protein: Explained) -> Rows:
    (content,) = files.values()
    table = pd.read_parquet(io.BytesIO(content))
    pd.testing.assert_frame_equal(table, attribution_table(protein))
    return rows_of(table)


def read_gff3(files: Files, protein: Explained) -> Rows:
    (text,) = texts(files).values()
    lines = text.splitlines()
    assert lines[0] == "##gff-version 3"
    directive, seqid, first, last = lines[1].split(" ")
    assert (directive, unquote(seqid), first, last) == (
        "##sequence-region", protein.protein, "1", str(len(protein.sequence)),
    )  # fmt: skip
    found: Rows = {}
    for line in lines[2:]:
        columns = line.split("\t")
        assert len(columns) == 9
        assert re.fullmatch(r"(?:[a-zA-Z0-9.:^*$@!+_?|-]|%[0-9A-F]{2})+", columns[0])
        assert unquote(columns[0]) == protein.protein
        assert columns[2] == "polypeptide_region"
        assert columns[3] == columns[4]
        assert columns[6:8] == [".", "."]
        attributes = {name: unquote(value) for name, value in (part.split("=") for part in columns[8].split(";"))}
        position = int(columns[3])
        assert attributes["residue"] == protein.sequence[position - 1]
        found[attributes["Ontology_term"], attributes["model"], attributes["method"], position] = float(columns[5])
    return found


def read_bed(files: Files, protein: Explained) -> Rows:
    (text,) = texts(files).values()
    largest = {track.key: track.limit for track in protein.tracks}
    found: Rows = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        chrom, start, end, name, score, strand, *key, value = line.split("\t")
        assert re.fullmatch(r"[A-Za-z0-9_]{1,255}", chrom)
        assert int(end) == int(start) + 1
        assert 0 <= int(score) <= 1000
        assert strand == "."
        assert name == f"{protein.sequence[int(start)]}{end}"
        term, model, method = key
        assert int(score) == round(1000 * float(value) / largest[term, model, method])
        found[term, model, method, int(end)] = float(value)
    return found


def read_bedgraph(files: Files, protein: Explained) -> Rows:
    (text,) = texts(files).values()
    tracks = {track.label: track.key for track in protein.tracks}
    found: Rows = {}
    key: tuple[str, str, str] | None = None
    for line in text.splitlines():
        if line.startswith("track "):
            assert line.startswith("track type=bedGraph ")
            name = re.search(r' name="([^"]*)"', line)
            assert name is not None
            key = tracks[name[1]]
        elif not line.startswith("#"):
            chrom, start, end, value = line.split("\t")
            assert re.fullmatch(r"[A-Za-z0-9_]{1,255}", chrom)
            assert int(end) == int(start) + 1
            assert key is not None
            found[*key, int(start) + 1] = float(value)
    return found


def read_uniprot(files: Files, protein: Explained) -> Rows:
    document = json.loads(next(iter(files.values())))
    assert document["accession"] == protein.protein
    assert document["sequence"] == protein.sequence
    found: Rows = {}
    for feature in document["features"]:
        assert isinstance(feature["begin"], str)
        assert feature["begin"] == feature["end"]
        assert {"type", "category", "description", "evidences"} < set(feature)
        position, own = int(feature["begin"]), feature["gowhy"]
        assert own["residue"] == protein.sequence[position - 1]
        assert f"{own['residue']}{position} " in feature["description"]
        found[own["term"], own["model"], own["method"], position] = own["value"]
    return found


def read_nightingale(files: Files, protein: Explained) -> Rows:
    document = json.loads(next(iter(files.values())))
    tracks = {track.label: track.key for track in protein.tracks}
    lines = {
        (*tracks[line["name"]], point["position"]): point["value"]
        for line in document["linegraph"]
        for point in line["values"]
    }
    cells = {(*tracks[cell["yValue"]], cell["xValue"]): cell["score"] for cell in document["heatmap"]}
    assert lines == cells
    for line in document["linegraph"]:
        low, high = line["range"]
        assert low == -high
        assert all(low <= point["value"] <= high for point in line["values"])
    return lines


def read_chimerax(files: Files, protein: Explained) -> Rows:
    (text,) = texts(files).values()
    found: Rows = {}
    name, recipient = "", ""
    for line in text.splitlines():
        if line.startswith("attribute: "):
            name = line.removeprefix("attribute: ")
            assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
        elif line.startswith("recipient: "):
            recipient = line.removeprefix("recipient: ")
        elif line.startswith("\t"):
            _, specification, value = line.split("\t")
            place = re.fullmatch(r"/([A-Za-z0-9]+):(\d+)", specification)
            assert place is not None
            assert recipient == "residues"
            found[*by_attribute(protein)[name], int(place[2]) - offset(protein)] = float(value)
    return found


def read_pymol(files: Files, protein: Explained) -> Rows:
    found: Rows = {}
    for name, text in texts(files).items():
        key = by_attribute(protein)[Path(name).stem]
        assert f"spectrum b, blue_white_orange, {Path(name).stem}, minimum=-" in text
        for line in text.splitlines():
            place = re.fullmatch(r"alter \w+ and chain (\w+) and resi (\d+), b=(\S+)", line)
            if place is not None:
                found[*key, int(place[2]) - offset(protein)] = float(place[3])
    return found


def read_molviewspec(files: Files, protein: Explained) -> Rows:
    found: Rows = {}
    limits = {track.key: track.limit for track in protein.tracks}
    for name, content in files.items():
        if not name.endswith(".mvsj"):
            continue
        scene = json.loads(content)
        assert set(scene["metadata"]) >= {"version", "timestamp"}
        nodes = list(walk(scene["root"]))
        kinds = [node["kind"] for node in nodes]
        assert kinds[:4] == ["root", "download", "parse", "structure"]
        params = {node["kind"]: node.get("params", {}) for node in nodes}
        folder = Path(name).parent
        assert files[str(folder / params["download"]["url"])] == (protein.structure and protein.structure.content)
        assert params["parse"]["format"] == "pdb"
        source = params["color_from_uri"]
        assert (source["schema"], source["format"]) == ("auth_residue", "json")
        key = by_attribute(protein)[Path(name).stem]
        for row in json.loads(files[str(folder / source["uri"])]):
            position = row["auth_seq_id"] - offset(protein)
            value = row["gowhy"]["value"]
            assert row["color"] == "#{:02x}{:02x}{:02x}".format(*of_value(value, limits[key]))
            found[*key, position] = value
    return found


def walk(node: dict[str, Any]) -> Any:
    yield node
    for child in node.get("children", []):
        yield from walk(child)


def read_svg(files: Files, protein: Explained) -> Rows:
    found: Rows = {}
    for text in texts(files).values():
        for group in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}g"):
            key = (group.attrib["data-term"], group.attrib["data-model"], group.attrib["data-method"])
            for cell in group.iter("{http://www.w3.org/2000/svg}rect"):
                found[*key, int(cell.attrib["data-position"])] = float(cell.attrib["data-value"])
    return found


def read_png(files: Files, protein: Explained) -> Rows:
    """Colours are not values: the pixels must be the table's colours."""
    found: Rows = {}
    for term in dict.fromkeys(track.key[0] for track in protein.tracks):
        (content,) = (data for name, data in files.items() if Path(name).stem == identifier(term))
        image = Image.open(io.BytesIO(content)).convert("RGB")
        tracks = [track for track in protein.tracks if track.key[0] == term]
        assert image.size == (PNG_CELL * len(protein.sequence), PNG_ROW * len(tracks))
        for row, track in enumerate(tracks):
            for column, value in enumerate(track.explanation.values):
                middle = (PNG_CELL * column + PNG_CELL // 2, PNG_ROW * row + PNG_ROW // 2)
                assert image.getpixel(middle) == of_value(value, track.limit)
                if value is not None:
                    found[*track.key, column + 1] = value
    return found


READERS: dict[str, Callable[[Files, Explained], Rows]] = {
    "json": read_json,
    "parquet": read_parquet,
    "gff3": read_gff3,
    "bed": read_bed,
    "bedgraph": read_bedgraph,
    "uniprot": read_uniprot,
    "nightingale": read_nightingale,
    "chimerax": read_chimerax,
    "pymol": read_pymol,
    "molviewspec": read_molviewspec,
    "svg": read_svg,
    "png": read_png,
}
BY_STRUCTURE = {"chimerax", "pymol", "molviewspec"}
SHIFT, GAP = 100, (20, 30)  # the structure's numbers start at 101, and it lacks residues 20 to 29


def offset(protein: Explained) -> int:
    return 0 if protein.structure is None else SHIFT


def with_structure(protein: Explained, folder: Path) -> Explained:
    path = folder / "model.pdb"
    path.write_bytes(pdb(protein.sequence, chain="B", shift=SHIFT, without=range(*GAP)))
    return replace(protein, structure=read_structure(path, protein.protein, protein.sequence))


def test_every_exporter_has_a_reader() -> None:
    assert set(READERS) == set(EXPORTERS)


@pytest.mark.parametrize("protein", ["P1", HOSTILE])
@pytest.mark.parametrize("name", EXPORTERS)
def test_an_export_read_back_is_the_table(name: str, protein: str, tmp_path: Path) -> None:
    subject = explained(protein)
    if name == "molviewspec":
        subject = with_structure(subject, tmp_path)
    files = dict(EXPORTERS[name].files(subject))
    wanted = rows_of(attribution_table(subject))
    if name == "bed":
        wanted = {(*track.key, item.position): item.value for track in subject.tracks for item in track.explanation.top}
    if subject.structure is not None:
        wanted = {key: value for key, value in wanted.items() if key[3] not in range(*GAP)}
    assert wanted
    assert READERS[name](files, subject) == wanted


@pytest.mark.parametrize("name", sorted(BY_STRUCTURE))
def test_a_structure_gives_its_own_chain_and_numbers(name: str, tmp_path: Path) -> None:
    subject = with_structure(explained(), tmp_path)
    wanted = {key: value for key, value in rows_of(attribution_table(subject)).items() if key[3] not in range(*GAP)}
    assert READERS[name](dict(EXPORTERS[name].files(subject)), subject) == wanted


@pytest.mark.parametrize("name", EXPORTERS)
def test_exports_are_the_same_bytes_each_time_and_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    subject = with_structure(explained("../../etc/passwd"), tmp_path)
    first, second = (dict(EXPORTERS[name].files(subject)) for _ in range(2))
    assert first == second
    for path in first:
        assert not Path(path).is_absolute()
        assert ".." not in Path(path).parts
        assert Path(path).parts[0].split(".")[0] == subject.name
