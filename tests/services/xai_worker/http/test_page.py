"""The page in a real browser: connect, submit, watch, cancel, open the report. Set GOWHY_SCREENSHOTS to keep pictures."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.xai_worker.http_settings import HttpSettings
from services.xai_worker.routes.page import FOLDER, _page
from tests.fakes.memory_queue import MemoryQueue
from tests.fakes.published_run import PublishedRun
from tests.fakes.served import Worker, served
from tests.services.xai_worker.http.conftest import Keys

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STEP_MS = 30_000


def test_the_page_refers_to_nothing_outside() -> None:
    text, policy = _page()
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", text)
    assert not re.search(r"""\s(style|on\w+)=["']""", (FOLDER / "page.html").read_text())
    assert "unsafe" not in policy
    assert "innerHTML" not in text


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
class TestBrowser:
    @pytest.fixture
    def worker(self, queue: MemoryQueue, run: PublishedRun) -> Iterator[Worker]:
        (run.out / "latest").symlink_to(run.run_id)
        made = Worker(queue, run, step_s=0.3)
        made.start()
        yield made
        made.stopping.set()
        if made.by_hand is not None:
            made.by_hand.release(made.proteins)  # of a test that failed in between
        made.join()

    @pytest.fixture
    def base(self, queue: MemoryQueue, run: PublishedRun, keys: Keys, worker: Worker) -> Iterator[str]:
        with served(queue, HttpSettings(out=run.out, stream_poll_s=0.05), keys.known) as address:
            yield address

    @pytest.fixture
    def page(self, base: str, chromium):  # type: ignore[no-untyped-def]
        context = chromium.new_context(viewport={"width": 1100, "height": 900})
        page = context.new_page()
        page.set_default_timeout(STEP_MS)
        self.complaints: list[str] = []
        page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.outside: list[str] = []
        page.on("request", lambda r: None if r.url.startswith((base, "about:")) else self.outside.append(r.url))
        page.goto(base)
        yield page
        context.close()

    def picture(self, page, name: str) -> None:  # type: ignore[no-untyped-def]
        if folder := os.environ.get("GOWHY_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)

    def connect(self, page, keys: Keys, name: str = "lab") -> None:  # type: ignore[no-untyped-def]
        page.get_by_label("Token").fill(keys.plain[name])
        page.get_by_role("button", name="Connect").click()
        page.locator("#notice", has_text="Connected").wait_for()

    def test_from_the_token_to_the_report(  # type: ignore[no-untyped-def]
        self, page, keys: Keys, queue: MemoryQueue, worker: Worker
    ) -> None:
        worker.by_hand = threading.Semaphore(0)
        page.locator("#notice", has_text="needs a valid token").wait_for()
        self.picture(page, "before")
        self.complaints.clear()  # the browser reports the 401 itself
        self.connect(page, keys)
        assert page.get_by_label("Token").input_value() == ""
        page.get_by_label("Proteins").first.fill("T1, T2 P1")
        page.get_by_label("Terms per protein").fill("2")
        page.get_by_label("integrated_gradients").uncheck()
        page.get_by_role("button", name="Submit").click()
        page.locator("tr progress").wait_for()
        self.picture(page, "running")
        worker.by_hand.release(worker.proteins)
        page.locator(".state.succeeded").wait_for()
        job = next(iter(queue.jobs.values()))
        assert job.request["proteins"] == ["T1", "T2", "P1"]
        assert (job.request["top_k"], "integrated_gradients" in job.request["methods"]) == (2, False)
        with page.expect_popup() as opened:
            page.get_by_role("button", name=f"Report job {job.id}").click()
        report = opened.value
        report.get_by_role("link", name="T1").click()
        report.get_by_text("a report").wait_for()
        self.picture(page, "done")
        assert self.complaints == []
        assert self.outside == []

    def test_progress_is_live(self, page, keys: Keys, worker: Worker) -> None:  # type: ignore[no-untyped-def]
        worker.by_hand = threading.Semaphore(0)
        self.connect(page, keys)
        page.get_by_role("button", name="Submit").click()
        for done in range(3):
            page.get_by_text(f"{done} of 3 T{done + 1} cnn occlusion").wait_for()
            worker.by_hand.release()
        page.locator(".state.succeeded").wait_for()

    def test_cancel_and_retry(self, page, keys: Keys, worker: Worker, queue: MemoryQueue) -> None:  # type: ignore[no-untyped-def]
        worker.go.clear()
        self.connect(page, keys)
        page.get_by_role("button", name="Submit").click()
        page.get_by_role("button", name=re.compile("^Cancel job")).click()
        page.locator(".state.cancelled").wait_for()
        page.get_by_role("button", name=re.compile("^Retry job")).click()
        page.locator(".state.queued").wait_for()
        assert page.locator("#waiting").inner_text().endswith(f"of {queue.bound}")
        worker.go.set()
        page.locator(".state.succeeded").wait_for()

    def test_a_refusal_is_said(self, page, keys: Keys, queue: MemoryQueue) -> None:  # type: ignore[no-untyped-def]
        self.connect(page, keys)
        page.get_by_label("Proteins").first.fill("nobody")
        page.get_by_role("button", name="Submit").click()
        page.locator("#notice.bad", has_text="does not have nobody").wait_for()
        self.picture(page, "refused")
        assert not queue.jobs

    def test_names_cannot_become_markup(self, page, keys: Keys, queue: MemoryQueue) -> None:  # type: ignore[no-untyped-def]
        self.connect(page, keys)
        page.get_by_role("button", name="Submit").click()
        page.locator(".state.succeeded").wait_for()
        job_id = next(iter(queue.jobs))
        queue._set(job_id, run_id="<img src=x onerror=document.title=1>")
        page.reload()
        page.get_by_text("<img src=x").wait_for()
        assert page.title() == "gowhy: explanations"

    def test_every_control_has_a_name(self, page, keys: Keys) -> None:  # type: ignore[no-untyped-def]
        self.connect(page, keys)
        page.get_by_role("button", name="Submit").click()
        page.locator(".state.succeeded").wait_for()
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button,input,meter,progress,select")].filter(found => !(found.labels?.length
            || found.getAttribute("aria-label") || found.textContent.trim())).map(found => found.outerHTML)"""
        )
        assert nameless == []
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") != ""

    def test_a_report_cannot_reach_the_token(
        self, page, base: str, keys: Keys, run: PublishedRun, queue: MemoryQueue
    ) -> None:  # type: ignore[no-untyped-def]
        self.connect(page, keys)
        page.get_by_role("button", name="Submit").click()
        page.locator(".state.succeeded").wait_for()
        job_id = next(iter(queue.jobs))
        index = run.folder / "xai" / job_id / "index.html"
        index.write_text(
            "<!DOCTYPE html><p id=said>nothing</p><script>let said = '';"
            "try { said += 'storage ' + sessionStorage.length } catch (error) { said += 'no storage,' }"
            f"fetch('{base}/v1/health/live').then(() => said += ' fetched', () => said += ' no fetch')"
            ".then(() => document.getElementById('said').textContent = said)</script>"
        )
        with page.expect_popup() as opened:
            page.get_by_role("button", name=f"Report job {job_id}").click()
        opened.value.get_by_text("no storage, no fetch").wait_for()
