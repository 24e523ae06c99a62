from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from services.xai_worker.colours import of_value
from services.xai_worker.exports import Explained
from services.xai_worker.naming import safe_name
from services.xai_worker.provenance import Provenance
from services.xai_worker.report import index_row, render_index, render_report, report_name
from services.xai_worker.report.drawings import bars_of, waterfall_of
from services.xai_worker.report.gates import gates_of
from services.xai_worker.report.graph import drawing_of
from services.xai_worker.report.heatmap import SAME, heatmap_of
from services.xai_worker.report.summary import residues_text, summary_of
from services.xai_worker.report.ui import bundle
from services.xai_worker.report.view import (
    BLOCK_RESIDUES,
    SHADES,
    alignment_text,
    chart_of,
    colour_css,
    ruler,
    shade_of,
)
from services.xai_worker.result import AnyExplanation, ModalityExplanation, NeighbourExplanation, PathExplanation
from shared.manifest import EncoderRecord, EnvLock
from tests.fakes.explanations import channels, everything, residues

HOSTILE = "<script>alert('x')</script>\" onload=\"alert(1)"
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Collects every tag with its attributes, and checks that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def provenance(weights: str = "random-init(0)") -> Provenance:
    lock = EnvLock(name="xai", hash="a" * 64, policy="warn", verified=True, packages_digest="0" * 64)
    return Provenance(
        job_id="local-1", run_id=f"run {HOSTILE}", model_sha256="b" * 64, dataset="smoke 1, clusters",
        encoders=[EncoderRecord(arch="esm2_tiny", dim=64, weights=weights)], ontology_version="2026-01-01",
        seeds={"split": 11}, train_commit="c" * 40, train_env_lock="d" * 64, env_lock=lock,
        software={"python": "3.11"}, device="cpu", threads=2, data_sha256={"data.obo": "e" * 64},
    )  # fmt: skip


SEQUENCE = "ACDEFGHIKLMNPQRSTVWY" * 7 + "GKS"
VALUES: list[float | None] = [*(0.01 * ((i * 37) % 101 - 50) for i in range(len(SEQUENCE) - 1)), None]


def page(found: list[AnyExplanation], sequence: str = SEQUENCE, weights: str = "random-init(0)") -> str:
    protein = found[0].protein
    return render_report(Explained(protein, safe_name(protein), sequence, found), provenance(weights))


def report(protein: str = "P1", weights: str = "random-init(0)", name: str = HOSTILE) -> str:
    found: list[AnyExplanation] = [
        residues(SEQUENCE, VALUES, protein=protein),
        residues(SEQUENCE, VALUES, protein=protein, converged=False, method="integrated_gradients"),
        channels(protein),
    ]
    return page([item.model_copy(update={"term_name": name}) for item in found], weights=weights)


def rich() -> str:
    return render_report(everything(), provenance(), {"gff3": ["exports/gff3/P69441.gff3"]})


RANKING = {
    "model": HOSTILE,
    "method": "occlusion",
    "map": 0.9,
    "ci95": [0.8, 1.0],
    "random": 0.1,
    "prevalence": 0.02,
    "n": 4,
}


def index(weights: str = "random-init(0)") -> str:
    rows = [
        index_row(item, f"reports/{report_name(item.protein)}", "local-0")
        for item in (residues(SEQUENCE, VALUES, protein=HOSTILE), channels())
    ]
    return render_index(rows, provenance(weights), {"rankings": [RANKING]})


def hostile() -> str:
    return report(HOSTILE)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without the front-end libraries, whether they are built or not."""
    monkeypatch.setenv(bundle.SWITCH, "off")


@pytest.mark.parametrize("make", [report, hostile, index, rich])
def test_a_page_is_well_formed_and_refers_to_nothing_outside(make: Callable[[], str]) -> None:
    text = make()
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in {
            "link",
            "iframe",
            "object",
            "embed",
            "base",
            "form",
            "audio",
            "video",
            "source",
            "image",
            "use",
        }
        assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
        assert not any(name.startswith("on") for name in attributes)
        assert "style" not in attributes
        target = attributes.get("href", "#") or ""
        assert re.fullmatch(r"#[\w-]+|#|\.\./index\.html|reports/[\w.-]+\.html|\.\./exports/[\w./-]+", target), target
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)


@pytest.mark.parametrize("make", [hostile, index, rich])
def test_hostile_names_are_text(make: Callable[[], str]) -> None:
    text = make()
    page = Page(text)
    own = [a for a in page.all("script") if a.get("type") != "application/json"]
    assert len(own) == 1
    assert "alert(" not in page.texts["script"][-1]
    assert HOSTILE not in text
    assert "<script>alert" not in text
    assert "<b>nucleotide" not in text
    if make is not rich:
        assert any(HOSTILE in data for texts in page.texts.values() for data in texts)


def test_the_inline_data_is_json_that_cannot_end_its_element() -> None:
    text = report(HOSTILE)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert data["protein"] == HOSTILE
    assert data["terms"][0]["name"] == HOSTILE
    assert data["terms"][0]["tracks"][0]["values"] == pytest.approx(VALUES)
    assert data["sequence"] == SEQUENCE
    assert "<" not in found[1]


def test_the_policy_lets_only_the_pages_own_style_and_script_in() -> None:
    policy = next(a["content"] for a in Page(report()).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_libraries_are_inlined_by_their_hash_and_a_page_without_a_structure_has_no_viewer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(bundle.SWITCH)
    monkeypatch.setattr(bundle, "DIST", tmp_path)
    (tmp_path / "tracks.js").write_text("/* tracks */ '</script>'")
    (tmp_path / "viewer.js").write_text("/* viewer */")
    text = report()
    assert "/* tracks */ '<\\/script>'" in text
    assert "/* viewer */" not in text
    policy = next(a["content"] for a in Page(text).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.count("sha256-") == 3
    assert "script-src 'unsafe" not in policy
    assert "style-src-attr 'unsafe-inline'" in policy


def test_every_residue_stands_on_the_page_with_its_number_and_value() -> None:
    cells = re.findall(r'<i class="([^"]+)" data-tip="(\w)(\d+) ([^"]+)">(\w)</i>', report())
    assert len(cells) == len(SEQUENCE)
    assert "".join(letter for *_, letter in cells) == SEQUENCE
    assert [int(number) for _, _, number, _, _ in cells] == list(range(1, len(SEQUENCE) + 1))
    assert cells[-1][0] == "unseen"
    assert cells[-1][3] == "not seen by the model"
    assert sum("top" in css for css, *_ in cells) == 10


def test_every_line_and_track_can_be_reached_and_heard() -> None:
    page = Page(report())
    lines = [a for a in page.all("span") if a.get("class") == "line"]
    assert len(lines) == -(-len(SEQUENCE) // BLOCK_RESIDUES)
    tracks = [a for a in page.all("g") if a.get("class") == "track"]
    assert len(tracks) == 2
    assert all(a["tabindex"] == "0" and a["role"] == "img" and a["aria-label"] for a in [*lines, *tracks])
    assert "residues 1 to 60: highest" in (lines[0]["aria-label"] or "")


def test_every_drawing_has_words_for_who_cannot_see_it() -> None:
    for attributes in Page(rich()).all("svg"):
        assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label"), attributes
    for attributes in Page(rich()).all("img"):
        assert attributes["alt"]


def test_gates_provenance_and_the_warnings_are_on_the_page() -> None:
    text = report()
    for wanted in (
        "+2.251",
        "the stored +2.25",
        "not_converged 0.2",
        "32 steps",
        "142 of 143 residues",
        "xai " + "a" * 64,
        "b" * 64,
        "2026-01-01",
        "This explains the model, not biology",
        "data.obo (sha256)",
        "e" * 64,
    ):
        assert wanted in text, wanted
    assert "Untrained encoder: esm2_tiny, random-init(0)." in text
    trained = report(weights="local file, sha256 1234")
    assert "Untrained" not in trained
    assert "local file, sha256 1234" in trained


def test_what_was_not_measured_is_said_and_passes_nothing() -> None:
    gates = {gate.name: gate.status for gate in gates_of(residues(SEQUENCE, VALUES, converged=None))}
    assert gates == {
        "same model": "pass", "whole sequence": "fail",
        "faithful": "unknown", "stable": "unknown", "term-specific": "unknown",
    }  # fmt: skip
    assert "not known: faithful, stable, term-specific" in report()


def test_a_gate_that_fails_is_named_at_the_top() -> None:
    good, bad = everything(), everything(faithful=False)
    verdicts = {}
    for name, subject in (("good", good), ("bad", bad)):
        summary = summary_of([item for item in subject.explanations if item.term == "GO:0005524"])
        verdicts[name] = (summary.passed, summary.failed)
    assert verdicts == {"good": (8, []), "bad": (7, ["faithful"])}
    assert '<span class="failed">faithful</span>' in render_report(bad, provenance())


def test_the_summary_says_score_evidence_residues_and_counterfactual() -> None:
    said = " ".join(summary_of([i for i in everything().explanations if i.term == "GO:0005524"]).sentences)
    for wanted in (
        "ATP binding very likely",
        "0.962",
        "sequence (ESM-2) +1.9",
        "G12-T15",
        "Masking 3 residues",
        "0.38",
    ):
        assert wanted in said, wanted


def test_neighbouring_residues_are_joined() -> None:
    values: list[float | None] = [0.0] * len(SEQUENCE)
    for at in (9, 10, 11, 30):
        values[at - 1] = 1.0
    assert residues_text(residues(SEQUENCE, values)) == f"{SEQUENCE[8]}9-{SEQUENCE[10]}11 {SEQUENCE[29]}30"


def test_a_waterfall_goes_from_the_reference_to_the_score() -> None:
    (item,) = (found for found in everything().explanations if isinstance(found, ModalityExplanation))
    steps = waterfall_of(item).steps
    ends = [step.x + step.width if step.kind != "down" else step.x for step in steps]
    starts = [step.x if step.kind != "down" else step.x + step.width for step in steps]
    assert starts[1:-1] == pytest.approx(ends[:-2])
    assert ends[-2] == pytest.approx(ends[-1], abs=0.01)
    assert [step.value for step in steps] == [-1.1, 1.92, 1.05, 0.64, 0.5272, 0.2, -0.12, 3.1172]
    assert all(step.low is not None and step.low < step.high for step in steps[1:-1])


def test_parents_stand_above_their_children() -> None:
    (item,) = (found for found in everything().explanations if isinstance(found, PathExplanation))
    drawing = drawing_of(item)
    height = {box.term: box.y for box in drawing.boxes}
    assert len(height) == len(item.nodes)
    assert all(height[child] > height[parent] for child, parent in item.edges)
    assert [wire.on_path for wire in drawing.wires].count(True) == 1
    taken = [(box.x, box.y) for box in drawing.boxes]
    assert len(set(taken)) == len(taken)


def test_an_alignment_numbers_both_sides_and_marks_carried_sites() -> None:
    (item,) = (found for found in everything().explanations if isinstance(found, NeighbourExplanation))
    lines = alignment_text(item.neighbours[0]).splitlines()
    assert lines[0].startswith("     1 MRIILLGAPG")
    assert lines[0].endswith(" 60")
    assert [at for at, mark in enumerate(lines[1][7:], start=1) if mark == "*"] == [10, 13, 14, 15]
    assert lines[2].startswith("     4 ")
    assert lines[4].startswith("    61 ")
    assert lines[-1].endswith(" 71")


def test_the_heat_map_has_a_pixel_per_cell_in_the_scales_colour() -> None:
    subject = everything()
    drawn = heatmap_of(subject.mutations[0], subject.sequence)
    image = Image.open(io.BytesIO(base64.b64decode(drawn.picture.partition(",")[2]))).convert("RGB")
    assert image.size == (len(subject.sequence), 20)
    for position, residue, substitution, value in subject.mutations[0].rows[::37]:
        place = (position - 1, drawn.alphabet.index(substitution))
        assert image.getpixel(place) == of_value(value, drawn.limit)
        assert image.getpixel((position - 1, drawn.alphabet.index(residue))) == SAME
        assert drawn.values[place[1]][place[0]] == value


def test_a_long_protein_keeps_its_peaks_in_a_narrow_drawing() -> None:
    values: list[float | None] = [0.001] * 5000
    values[2500] = 3.0
    bars = bars_of(residues("A" * 5000, values), 300, 34)
    heights = [float(part) for part in re.findall(r"v(-[\d.]+)", bars.up)]
    assert len(heights) <= 200
    assert min(heights) == -16.0


def test_a_score_that_rests_on_annotations_says_so() -> None:
    said = "rests on existing annotations"
    assert said in (chart_of(channels(goa=3.0)).note or "")
    assert chart_of(channels(goa=0.1)).note is None


def test_bars_start_at_zero_and_keep_their_signs() -> None:
    chart = chart_of(channels())
    assert chart.limit == 1.0
    own, other = (next(s for s in chart.bars[0].segments if s.relation == r) for r in ("self", "other"))
    assert own.x == chart.zero
    assert own.width == pytest.approx(chart.zero)
    assert other.x + other.width == pytest.approx(chart.zero)
    assert chart.bars[0].total == pytest.approx(0.75)


@given(st.floats(-10, 10), st.floats(0.001, 10))
def test_the_colour_scale_is_symmetric(value: float, limit: float) -> None:
    bounded = max(-limit, min(limit, value))
    shade = shade_of(bounded, limit)
    assert shade is not None
    assert shade_of(-bounded, limit) == -shade
    assert abs(shade) <= SHADES


def test_the_darkest_shades_are_equally_dark() -> None:
    def luminance(name: str) -> float:
        found = re.search(rf"\.{name}\{{background:#(..)(..)(..)", colour_css())
        assert found is not None
        red, green, blue = (int(part, 16) / 255 for part in found.groups())
        return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2

    for shade in range(1, SHADES + 1):
        assert luminance(f"n{shade}") == pytest.approx(luminance(f"p{shade}"), abs=0.12)


def test_the_ruler_counts_from_one() -> None:
    assert ruler(0, 20) == "        10        20"
    assert ruler(60, 75) == "        70     "
    assert ruler(0, 5) == "     "


@given(st.text(min_size=1, max_size=300))
def test_a_pages_name_is_one_safe_file_name(protein: str) -> None:
    name = report_name(protein)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.html", name)
    assert len(name) < 120


def test_pages_of_similar_names_do_not_meet() -> None:
    assert len({report_name(name) for name in ("a/b", "a_b", "a b", "../a/b")}) == 4
