from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.xai_worker.provenance import Provenance
from services.xai_worker.report import IndexRow, render_index, render_report, report_name
from services.xai_worker.report.view import BLOCK_RESIDUES, SHADES, chart_of, colour_css, ruler, shade_of
from services.xai_worker.result import (
    ChannelExplanation,
    CompletenessGate,
    EmbeddingParity,
    ExplainedScore,
    Gates,
    Part,
    ResidueExplanation,
    ScalarParity,
    top_residues,
)
from shared.manifest import EncoderRecord, EnvLock

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
        software={"python": "3.11"}, device="cpu", threads=2,
    )  # fmt: skip


def common(protein: str, converged: bool | None) -> dict[str, Any]:
    completeness = None
    if converged is not None:
        error = 0.001 if converged else 0.2
        completeness = CompletenessGate(
            explained=1.5, attributed=1.5 + error, error=error, tolerance=0.01, steps=32, converged=converged
        )
    return {
        "protein": protein,
        "term": "GO:0000001",
        "term_name": f"binding of {HOSTILE}",
        "aspect": "MF",
        "score": ExplainedScore(logit=2.25, reference=0.75, folds=[0, 1, 2, 3, 4], probability=0.91),
        "gates": Gates(
            parity=ScalarParity(recomputed=2.2512, stored=2.25, difference=0.0012, tolerance=0.011),
            embedding=EmbeddingParity(encoder="esm2", relative_error=0.0002, tolerance=0.001),
            completeness=completeness,
        ),
    }


def residues(
    sequence: str,
    values: list[float | None],
    *,
    protein: str = "P1",
    converged: bool | None = True,
    model: str = "cnn",
    method: str = "occlusion",
) -> ResidueExplanation:
    covered = sum(value is not None for value in values)
    return ResidueExplanation(
        **common(protein, converged), model=model, method=method, sequence=sequence, values=values, covered=covered,
        top=top_residues(sequence, values),
    )  # fmt: skip


def channels(protein: str = "P1", goa: float = -0.5) -> ChannelExplanation:
    values = {("level1:cnn", "self"): 1.0, ("level1:cnn", "other"): -0.25, ("goa:IEA", "ancestors"): goa}
    parts = [
        Part(channel=c, relation=r, value=values.get((c, r), 0.0))
        for c in ("level1:cnn", "missing", "goa:IEA") for r in ("self", "ancestors", "descendants", "other")
    ]  # fmt: skip
    return ChannelExplanation(**common(protein, True), model="stacker", method="stacker_parts", parts=parts)


SEQUENCE = "ACDEFGHIKLMNPQRSTVWY" * 7 + "GKS"
VALUES: list[float | None] = [*(0.01 * ((i * 37) % 101 - 50) for i in range(len(SEQUENCE) - 1)), None]


def report(protein: str = "P1", weights: str = "random-init(0)") -> str:
    found = [
        residues(SEQUENCE, VALUES, protein=protein),
        residues(SEQUENCE, VALUES, protein=protein, converged=False, method="integrated_gradients"),
        channels(protein),
    ]
    return render_report(found, SEQUENCE, provenance(weights))


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
        IndexRow(item, f"reports/{report_name(item.protein)}")
        for item in (residues(SEQUENCE, VALUES, protein=HOSTILE), channels())
    ]
    return render_index(rows, provenance(weights), {"rankings": [RANKING]})


@pytest.mark.parametrize("text", [report(), report(HOSTILE), index()])
def test_a_page_is_well_formed_and_refers_to_nothing_outside(text: str) -> None:
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "source"}
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        target = attributes.get("href", "#") or ""
        assert re.fullmatch(r"#[\w-]+|#|\.\./index\.html|reports/[\w.-]+\.html", target), target
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://|//[a-z]", text)


@pytest.mark.parametrize("text", [report(HOSTILE), index()])
def test_hostile_names_are_text(text: str) -> None:
    page = Page(text)
    assert len(page.all("script")) == 1
    assert "alert(" not in "".join(page.texts["script"])
    assert HOSTILE not in text
    assert any(HOSTILE in data for texts in page.texts.values() for data in texts)


def test_the_policy_lets_only_the_pages_own_style_and_script_in() -> None:
    policy = next(a["content"] for a in Page(report()).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_every_residue_stands_in_every_track_with_its_number_and_value() -> None:
    text = report()
    cells = re.findall(r'<i class="([^"]+)" title="(\w)(\d+) ([^"]+)">(\w)</i>', text)
    assert len(cells) == 2 * len(SEQUENCE)
    assert "".join(letter for *_, letter in cells[:BLOCK_RESIDUES]) == SEQUENCE[:BLOCK_RESIDUES]
    assert sorted({int(number) for _, _, number, _, _ in cells}) == list(range(1, len(SEQUENCE) + 1))
    last = next(cell for cell in cells if cell[2] == str(len(SEQUENCE)))
    assert last[0] == "unseen"
    assert last[3] == "not seen by the model"
    assert sum("top" in css for css, *_ in cells) == 2 * 10


def test_every_line_can_be_reached_and_heard() -> None:
    lines = [a for a in Page(report()).all("span") if a.get("class") == "line"]
    assert len(lines) == 2 * -(-len(SEQUENCE) // BLOCK_RESIDUES)
    assert all(a["tabindex"] == "0" and a["role"] == "img" for a in lines)
    assert "residues 1 to 60: highest" in (lines[0]["aria-label"] or "")


def test_gates_provenance_and_the_warnings_are_on_the_page() -> None:
    text = report()
    for wanted in (
        "+2.251",
        "+2.25 stored",
        "not_converged: error 0.2",
        "32 steps",
        "142 of 143 residues",
        "xai " + "a" * 64,
        "b" * 64,
        "2026-01-01",
        "This explains the model, not biology",
    ):
        assert wanted in text, wanted
    assert "<strong>esm2_tiny weights: random-init(0).</strong>" in text
    trained = report(weights="local file, sha256 1234")
    assert "never trained" not in trained
    assert "local file, sha256 1234" in trained


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
