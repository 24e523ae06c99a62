"""Stage 2: one line of text per protein, as it stood at a date, without the lines that state the label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.train.stage import Stage, StageContext, always
from services.train.text.cache import FetchCache
from services.train.text.chosen import ChosenTexts
from services.train.text.lines import HEADER
from services.train.text.record import DROPPED_KINDS, RULE_VERSION
from services.train.text.rest import ACCESSION, UniprotClient, fetch_missing
from services.train.text.sources import TextFiles
from shared.config import DataConfig, TextConfig
from shared.digests import digest_of
from shared.errors import ConfigError, DataError

CACHE_VERSION = 1  # of what the cache keeps of a record

Wanted = dict[str, None]  # accessions of train, then test, each once


def run(ctx: StageContext) -> None:
    """Find each protein's text and write it in row order."""
    settings = ctx.settings(TextConfig)
    wanted: Wanted = dict.fromkeys(
        name for part in ("train", "test") for name in ctx.read(f"parsed/{part}_seq.feather")["id"]
    )
    path = ctx.file("data.text")
    if path is not None and settings.fetch:
        raise ConfigError("data.text and text.fetch exclude each other", where="text.fetch", remedy="Clear one of them")
    with ChosenTexts(ctx.work / "texts", wanted, settings.frozen_at, settings.drop_lines) as texts:
        if path is not None:
            source = _from_files(ctx, path, wanted, texts)
        elif settings.fetch:
            source = _from_service(ctx, settings, wanted, texts)
        else:
            source = {"kind": None}
        with_text = _write_table(ctx.output("external/entryid_text.tsv"), texts)
    if source["kind"] is not None and not with_text:
        ctx.log.warning("no protein has text", **texts.counts.to_json())
    if source["kind"] == "table" and settings.frozen_at is not None:
        ctx.log.warning("a table has no dates: text.frozen_at was not checked")
    ctx.write(
        "external/text_manifest.json",
        {
            "modality": "present" if with_text else "absent",
            "source": source,
            "frozen_at": settings.frozen_at,
            "rule": _rule(settings, source["kind"]),
            "counts": {"proteins": len(wanted), "with_text": with_text, **texts.counts.to_json()},
        },
    )


def _from_files(ctx: StageContext, path: Path, wanted: Wanted, texts: ChosenTexts) -> dict[str, Any]:
    files = TextFiles.find(path)
    with ctx.progress("read text", files.size_bytes, "B") as bar:
        texts.add(files.read(wanted, lambda done: bar.advance(done - bar.done)))
    if not texts.counts.records:
        raise DataError(
            "no protein of train or test is in it", where=str(path), remedy="Give text keyed by the FASTA's accessions"
        )
    return {"kind": files.kind, "files": len(files.paths)}


def _from_service(ctx: StageContext, settings: TextConfig, wanted: Wanted, texts: ChosenTexts) -> dict[str, Any]:
    name = digest_of("uniprot-records", settings.url, CACHE_VERSION)[:16]
    with (
        FetchCache(ctx.cache / "uniprot" / f"{name}.jsonl") as cache,
        UniprotClient(settings.url, settings.batch_size, settings.requests_per_second) as client,
    ):
        with ctx.progress("fetch text", len(wanted), "proteins") as bar:
            not_accessions = fetch_missing(client, cache, wanted, bar.advance)
        releases: set[str] = set()
        unknown = 0
        for accession in filter(ACCESSION.fullmatch, wanted):
            answer = cache[accession]
            releases.update([answer.release] if answer.release else [])
            if answer.record is None:
                unknown += 1
            else:
                texts.add([answer.record])
    return {
        "kind": "uniprot-rest",
        "url": settings.url,
        "releases": sorted(releases),
        "unknown": unknown,
        "not_accessions": not_accessions,
    }


def _write_table(path: Path, texts: ChosenTexts) -> int:
    """Header and one line per protein; returns the number of proteins."""
    lines = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(HEADER)
        for accession, text in texts:
            file.write(f"{accession}\t{text}\n")
            lines += 1
    return lines


def _rule(settings: TextConfig, kind: str | None) -> dict[str, Any]:
    """What was taken out; a table has no line types, so that only GO ids could be."""
    rules = sorted(set(settings.drop_lines))
    lines = [] if kind == "table" else rules
    return {
        "version": RULE_VERSION,
        "drop_lines": rules,
        "dropped_kinds": sorted(name for rule in lines for name in DROPPED_KINDS[rule]),
        "go_ids_removed": "go" in rules,
        "not_applicable": sorted(set(rules) - {"go"}) if kind == "table" else [],
    }


STAGE = Stage(
    id="stage_02_external_text",
    version=1,
    run=run,
    inputs=always("parsed/train_seq.feather", "parsed/test_seq.feather"),
    outputs=always("external/entryid_text.tsv", "external/text_manifest.json"),
    sections=(DataConfig, TextConfig),
    files=("data.text",),
)
