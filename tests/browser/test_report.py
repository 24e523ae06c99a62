"""The reports as a person meets them, in headless Chromium."""

from __future__ import annotations

import csv
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from services.xai_worker.naming import safe_name
from tests.browser.conftest import FOLDED, HOSTILE
from tests.fakes.explanations import KINASE, everything

RICH = everything()
TRACK = RICH.tracks[0]


def open_report(tab: Any, job: Path, protein: str = "P69441") -> Any:
    tab.page.goto((job / f"reports/{safe_name(protein)}.html").as_uri())
    return tab.page


def tip(page: Any) -> str:
    return str(page.locator("#tip").inner_text()) if page.locator("#tip").is_visible() else ""


def spoken(value: float) -> str:
    """A number as the page writes it."""
    return ("+" if value > 0 else "\u2212" if value < 0 else "") + str(float(f"{abs(value):.4g}")).removesuffix(".0")


def test_the_first_screen_answers_what_how_sure_which_residues_what_evidence_and_whether_to_trust(
    tab: Any, job: Path, pictures: Path
) -> None:
    page = open_report(tab, job)
    page.screenshot(path=pictures / "report-first-screen.png")
    row = page.locator(".glance tbody tr").first
    box = row.bounding_box()
    assert box["y"] + box["height"] < 900
    said = row.inner_text()
    for wanted in ("ATP binding", "0.96", "very likely", "G12-T15", "sequence (ESM-2) +1.9", "8 of 8 pass"):
        assert wanted in said, wanted
    page.screenshot(path=pictures / "report-full.png", full_page=True)


def test_a_failed_check_stands_on_the_first_screen(tab: Any, job: Path, pictures: Path) -> None:
    page = open_report(tab, job, "Q00001")
    said = page.locator(".glance tbody tr").first.inner_text()
    assert "1 of 8 fail" in said
    assert "faithful" in said
    page.screenshot(path=pictures / "report-failed-check.png")


def test_hovering_a_track_shows_the_residue_and_its_value(tab: Any, job: Path, pictures: Path) -> None:
    page = open_report(tab, job)
    hit = page.locator(".track .hit").first
    hit.scroll_into_view_if_needed()
    box = hit.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 12.5 / len(KINASE), box["y"] + 20)
    assert tip(page) == f"K13 {spoken(TRACK.explanation.values[12])}"
    page.screenshot(path=pictures / "report-hover.png")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] - 200)
    assert tip(page) == ""


def test_every_kind_of_mark_shows_its_value_under_the_pointer(tab: Any, job: Path) -> None:
    page = open_report(tab, job)
    for selector, pattern in {
        ".line i.top": r"^[A-Z]\d+ \+",
        ".chip >> nth=3": "Faithfulness",
        ".own-point >> nth=2": "masked: falls by",
        "g[data-tip] rect.fall-up >> nth=0": r"sequence \(ESM-2\): \+1\.92",
        "rect.self >> nth=0": "level1:mlp, self",
        ".graph g[data-tip] rect.box >> nth=0": "after propagation",
        ".site >> nth=0": "is aligned with",
        ".word >> nth=0": "kinase: weight",
    }.items():
        mark = page.locator(selector).first
        mark.scroll_into_view_if_needed()
        mark.hover(force=True)
        assert re.search(pattern, tip(page)), (selector, tip(page))


def test_the_heat_map_names_the_mutation_under_the_pointer(tab: Any, job: Path) -> None:
    page = open_report(tab, job)
    picture = page.locator(".heat")
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 12.5 / len(KINASE), box["y"] + box["height"] * 0.5 / 20)
    value = next(row[3] for row in RICH.mutations[0].rows if row[0] == 13 and row[2] == "G")
    assert tip(page) == f"K13G {spoken(value)}"


def test_everything_is_within_reach_of_the_keyboard(tab: Any, job: Path) -> None:
    page = open_report(tab, job)
    page.locator(".track").first.focus()
    for key, place in (("End", len(KINASE)), ("Home", 1), ("ArrowRight", 2), ("PageDown", 12), ("ArrowLeft", 11)):
        page.keyboard.press(key)
        assert tip(page).startswith(f"{KINASE[place - 1]}{place} "), key
    page.keyboard.press("Escape")
    assert tip(page) == ""
    page.locator(".line").first.focus()
    page.keyboard.press("ArrowRight")
    assert tip(page).startswith("M1 ")
    page.locator(".heat").focus()
    page.keyboard.press("Home")
    assert tip(page).startswith("M1G")
    page.keyboard.press("ArrowRight")
    assert tip(page).startswith("R2G")


def test_tabs_reach_every_interactive_part_in_reading_order(tab: Any, job: Path) -> None:
    page = open_report(tab, job)
    order = page.evaluate(
        """[...document.querySelectorAll('a[href],button:not([hidden]),select,input,summary,[tabindex="0"]')]
        .filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect().top + scrollY)"""
    )
    assert len(order) > 40
    assert not page.locator("[tabindex]:not([tabindex='0']):not([tabindex='-1'])").count()


def test_a_screen_reader_finds_headings_names_and_a_live_region(tab: Any, job: Path) -> None:
    page = open_report(tab, job)
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    nameless = page.evaluate(
        """[...document.querySelectorAll('svg:not([aria-hidden]),img,[role=img],[role=region],button,select')]
        .filter(e => !(e.getAttribute('aria-label') || e.alt || e.textContent.trim() || e.closest('label'))).length"""
    )
    assert nameless == 0
    assert page.locator("#tip").get_attribute("aria-live") == "polite"


def test_what_the_page_holds_can_be_saved(tab: Any, job: Path) -> None:
    page = open_report(tab, job)
    saved = {}
    for kind in ("csv", "json", "fasta"):
        with page.expect_download() as waiting:
            page.locator(f"[data-save={kind}]").click()
        saved[kind] = Path(waiting.value.path()).read_text(encoding="utf-8")
        assert waiting.value.suggested_filename == f"P69441.{kind}"
    rows = [row for row in csv.DictReader(io.StringIO(saved["csv"])) if row["model"] == "final"]
    own = [row for row in rows if row["method"] == "occlusion"]
    assert [float(row["value"]) for row in own] == TRACK.explanation.values
    assert "".join(row["residue"] for row in own) == KINASE
    assert json.loads(saved["json"])["sequence"] == KINASE
    assert saved["fasta"].replace("\n", "").removeprefix(">P69441") == KINASE


def test_every_export_that_is_linked_is_there(tab: Any, job: Path) -> None:
    page = open_report(tab, job, FOLDED)
    links = page.evaluate("[...document.querySelectorAll('.downloads a')].map(e => e.getAttribute('href'))")
    formats = {link.split("/")[2] for link in links}
    assert len(formats) == 12
    for link in links:
        assert (job / "reports" / link).resolve().is_file(), link


def test_hostile_names_stay_text(tab: Any, job: Path) -> None:
    page = open_report(tab, job, HOSTILE)
    assert HOSTILE in page.locator("h1").inner_text()
    assert page.locator("img[src=x]").count() == 0
    page.goto((job / "index.html").as_uri())
    assert page.locator("img").count() == 0
    assert page.get_by_role("link", name=HOSTILE).count() > 0


def test_the_index_sorts_and_searches(tab: Any, job: Path, pictures: Path) -> None:
    page = tab.page
    page.goto((job / "index.html").as_uri())
    rows = page.locator("#explanations tbody tr")
    total = rows.count()
    assert total == len(RICH.explanations) * 2 + 5 + 6
    head = page.locator("th", has_text="Logit")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    logits = [
        float(text.replace("\u2212", "-"))
        for text in page.locator("#explanations tbody td:nth-child(7)").all_inner_texts()
    ]
    assert logits == sorted(logits, reverse=True)
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    page.locator("#search").fill("p69441 occlusion")
    assert page.locator("#explanations tbody tr:visible").count() == 2
    assert page.locator("#found").inner_text() == f"2 of {total}"
    page.screenshot(path=pictures / "index-search.png")
    page.locator("#search").fill("")
    assert page.locator("#explanations tbody tr:visible").count() == total
    page.screenshot(path=pictures / "index.png")
    page.get_by_role("link", name="P69441").first.click()
    assert page.locator("h1").inner_text().startswith("P69441")


def test_a_page_without_scripts_still_says_everything(chromium: Any, job: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((job / "reports/P69441.html").as_uri())
    said = page.locator("main").inner_text()
    for wanted in ("ATP binding", "8 of 8 pass", "Which residues it rests on", "Neighbours", "Provenance", "What if"):
        assert wanted in said, wanted
    assert page.locator(".track").count() == 5
    assert page.locator("button:visible").count() == 0  # nothing that would do nothing
    context.close()


def test_it_prints_on_pages_with_nothing_cut(tab: Any, job: Path, pictures: Path) -> None:
    page = open_report(tab, job)
    content = page.pdf(path=pictures / "report.pdf", format="A4", print_background=True)
    assert 2 <= content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") <= 16
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 1000})
    wide = page.evaluate(
        "[...document.querySelectorAll('main svg, main img, main table')].filter(e => e.checkVisibility())"
        ".map(e => [e.getAttribute('class') || e.tagName, e.getBoundingClientRect().right]).filter(e => e[1] > 702)"
    )
    assert wide == []


@pytest.mark.usefixtures("needs_libraries")
def test_the_structure_is_drawn_in_the_explanations_colours(tab: Any, job: Path, pictures: Path) -> None:
    page = open_report(tab, job, FOLDED)
    view = page.locator("#structure-view")
    view.scroll_into_view_if_needed()
    page.wait_for_selector("#structure-view[data-coloured]", timeout=60_000)
    assert view.get_attribute("data-coloured") == str(len(KINASE))
    page.wait_for_timeout(500)
    first = view.screenshot(path=pictures / "structure.png")
    page.select_option("#structure-track", index=3)
    page.wait_for_timeout(500)
    assert view.screenshot() != first


@pytest.mark.usefixtures("needs_libraries")
def test_the_tracks_can_be_zoomed(tab: Any, job: Path, pictures: Path) -> None:
    page = open_report(tab, job)
    page.locator(".zoom summary").first.click()
    tracks = page.locator(".zoom-panel").first.locator("nightingale-linegraph-track")
    page.wait_for_selector(".zoom-panel nightingale-linegraph-track svg path", timeout=60_000)
    assert tracks.count() == 4
    page.locator(".zoom").first.screenshot(path=pictures / "zoom.png")
