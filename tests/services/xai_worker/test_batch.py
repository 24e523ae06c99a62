"""A batch that is stopped goes on: finished proteins are not computed again, and the bytes are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.xai_worker.batch import code_digest
from services.xai_worker.explain import Options, explain
from services.xai_worker.job import Job
from services.xai_worker.parts import Made, Parts
from services.xai_worker.request import ExplainRequest
from services.xai_worker.stored import StoredRun
from services.xai_worker.targets import Target
from services.xai_worker.unseen import Computed, UnseenRun
from shared.errors import DataError, MissingInput
from shared.fasta import FastaRecord
from shared.logs import Logger
from tests.fakes.explained_run import ExplainedRun
from tests.fakes.explanations import everything
from tests.fakes.structures import pdb

FAST = Options(exports=("gff3",))


class Stopped(BaseException):
    """What a kill is to the code under test."""


class CountingJob(Job):
    """Counts explained proteins, and stops before the one that it is told to."""

    stop_at: int | None = None

    def explain(self, target: Target) -> Any:
        done: list[str] = self.__dict__.setdefault("explained", [])
        if self.stop_at == len(done):
            raise Stopped
        done.append(target.protein)
        return super().explain(target)


def job_of(run: ExplainedRun, stop_at: int | None = None, **asked: Any) -> CountingJob:
    values = {"proteins": ("T1", "T2", "P2"), "terms": tuple(run.terms[2:4]), "models": ("cnn",), **asked}
    job = CountingJob(StoredRun(run.folder), run.bundle, ExplainRequest(**values), Logger(None, quiet=True))
    job.stop_at = stop_at
    return job


def test_a_stopped_batch_goes_on_where_it_was_and_ends_in_the_same_bytes(
    fake_run: ExplainedRun, tmp_path: Path
) -> None:
    whole = explain(job_of(fake_run), fake_run.provenance(), tmp_path / "a", options=FAST)
    with pytest.raises(Stopped):
        explain(job_of(fake_run, stop_at=2), fake_run.provenance(), tmp_path / "b", options=FAST)
    assert not (tmp_path / "b/local-test").exists()
    again = job_of(fake_run)
    resumed = explain(again, fake_run.provenance(), tmp_path / "b", options=FAST)
    assert again.__dict__["explained"] == ["P2"]
    assert resumed.result["files"] == whole.result["files"]
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["local-test"]


@pytest.mark.parametrize("damage", [b"", b"x", b"\x00"])
def test_a_torn_part_is_made_again(fake_run: ExplainedRun, tmp_path: Path, damage: bytes) -> None:
    with pytest.raises(Stopped):
        explain(job_of(fake_run, stop_at=2), fake_run.provenance(), tmp_path, options=FAST)
    part = next((tmp_path / ".local-test.parts").glob("T1.json"))
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2] + damage)
    again = job_of(fake_run)
    explain(again, fake_run.provenance(), tmp_path, options=FAST)
    assert again.__dict__["explained"] == ["T1", "P2"]


def test_a_part_counts_only_for_the_same_code_and_provenance(fake_run: ExplainedRun, tmp_path: Path) -> None:
    subject, own = everything(), fake_run.provenance()
    made = Made(subject.explanations, subject.mutations)
    parts = Parts(tmp_path / "job", own, code_digest())
    parts.put("P69441", made)
    assert parts.get("P69441") == made
    assert parts.get("P1") is None
    assert Parts(tmp_path / "job", own, "other code").get("P69441") is None
    other = own.model_copy(update={"model_sha256": "1" * 64})
    assert Parts(tmp_path / "job", other, code_digest()).get("P69441") is None
    parts.clear()
    parts.clear()
    assert not parts.folder.exists()


def test_terms_of_one_protein_and_the_best_k_of_the_others(fake_run: ExplainedRun) -> None:
    job = job_of(fake_run, terms=(), pairs=(("T1", fake_run.terms[3]),), top_k=1)
    job.choose(None)
    asked = {target.protein: target.terms for target in job.targets}
    assert asked["T1"] == (fake_run.terms[3],)
    assert {protein: len(terms) for protein, terms in asked.items()} == {"T1": 1, "T2": 1, "P2": 1}
    with pytest.raises(MissingInput, match="T3"):
        job_of(fake_run, pairs=(("T3", fake_run.terms[3]),)).choose(None)
    only = job_of(fake_run, proteins=(), terms=(), pairs=(("T3", fake_run.terms[3]),))
    only.choose(None)
    assert [target.protein for target in only.targets] == ["T3"]


def test_a_structure_colours_the_page_and_a_wrong_one_stops_the_job(fake_run: ExplainedRun, tmp_path: Path) -> None:
    sequence = StoredRun(fake_run.folder).sequence(StoredRun(fake_run.folder).places["T1"])
    good, bad = tmp_path / "good.pdb", tmp_path / "bad.pdb"
    good.write_bytes(pdb(sequence))
    bad.write_bytes(pdb("W" * len(sequence)))
    options = Options(exports=("molviewspec",), structures={"T1": good})
    outcome = explain(job_of(fake_run, proteins=("T1",)), fake_run.provenance(), tmp_path / "x", options=options)
    assert "On the structure" in (outcome.folder / "reports/T1.html").read_text()
    assert (outcome.folder / "exports/molviewspec/T1/structure.pdb").read_bytes() == good.read_bytes()
    for structures, error, said in (
        ({"T1": bad}, DataError, "no chain is T1"),
        ({"T9": good}, MissingInput, "not explained"),
    ):
        with pytest.raises(error, match=said):
            explain(
                job_of(fake_run, proteins=("T1",)), fake_run.provenance(), tmp_path / "y",
                options=Options(structures=structures),  # type: ignore[arg-type]
            )  # fmt: skip


def test_proteins_from_a_file_stand_in_for_the_test_part(fake_run: ExplainedRun, tmp_path: Path) -> None:
    """Fed with a test protein's own arrays under another name, it is explained as the run's own is."""
    stored = StoredRun(fake_run.folder)
    place = stored.places["T2"]
    row = slice(place.row, place.row + 1)
    features = stored.features(place)
    arrays = {f"dense/{name}": np.asarray(array) for name, array in features.dense.items()}
    arrays |= {f"logits/{name}": np.asarray(stored.scores("test", name)[row]) for name in ("mlp", "cnn", "gcn")}
    computed = Computed({**arrays, "taxa": np.asarray(features.taxa)})
    computed.save(tmp_path / "computed.npz")
    records = [FastaRecord("NEW", None, stored.sequence(place), 1)]
    run = UnseenRun(fake_run.folder, records, Computed.load(tmp_path / "computed.npz"))
    asked: dict[str, Any] = {"terms": tuple(fake_run.terms[2:4]), "models": ("cnn", "mlp/esm2")}
    jobs = [
        Job(source, fake_run.bundle, ExplainRequest(proteins=(name,), **asked), Logger(None, quiet=True))
        for source, name in ((stored, "T2"), (run, "NEW"))
    ]
    found = []
    for job in jobs:
        job.choose(None)
        found.append([item.model_copy(update={"protein": ""}) for item in job.explain(job.targets[0]).documents])
    assert found[0] == found[1]
    assert run.also_trained_on == []
    train = str(stored.proteins["train"]["sequence"].iloc[0])
    assert UnseenRun(fake_run.folder, [FastaRecord("X", None, train, 1)], computed).also_trained_on == ["X"]


def test_result_says_what_the_pages_link_to(fake_run: ExplainedRun, tmp_path: Path) -> None:
    outcome = explain(job_of(fake_run, proteins=("T1",)), fake_run.provenance(), tmp_path, options=Options())
    files = set(outcome.result["files"])
    page = (outcome.folder / "reports/T1.html").read_text()
    for name in (
        "json",
        "parquet",
        "gff3",
        "bed",
        "bedgraph",
        "uniprot",
        "nightingale",
        "chimerax",
        "pymol",
        "svg",
        "png",
    ):
        linked = [path for path in files if path.startswith(f"exports/{name}/T1")]
        assert linked, name
        assert any(f'href="../{path}"' in page for path in linked), name
    assert json.loads((outcome.folder / "exports/json/T1.json").read_bytes())
