"""The whole chain on 240 real proteins; cafaeval on the written submission is the oracle of its metrics."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from pipeline_runs import run

pytestmark = [pytest.mark.real_data, pytest.mark.timeout(900)]
NAMESPACES = {"molecular_function": "MF", "biological_process": "BP", "cellular_component": "CC"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, gowhy_data) -> Path:
    """A finished run on tiny."""
    out = tmp_path_factory.mktemp("tiny") / "out"
    command = [sys.executable, "-m", "benchmarks.quality", "--data", "tiny", "--out", str(out)]
    done = run(command, GOWHY_DATA=str(gowhy_data))
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-4000:])
    assert done.stdout.splitlines()[-1].startswith("PASS ")
    return out / "quality-tiny"


def plain(path: Path, target: Path) -> Path:
    """The file, unzipped."""
    data = path.read_bytes()
    target.write_bytes(gzip.decompress(data) if path.suffix == ".gz" else data)
    return target


def test_the_metrics_are_cafaevals_on_the_submission(folder, gowhy_data, tmp_path) -> None:
    (tmp_path / "pred").mkdir()
    plain(folder / "submission.tsv", tmp_path / "pred/gowhy.tsv")
    truth = pd.read_csv(gowhy_data / "tiny/test_terms.tsv", sep="\t")[["EntryID", "term"]]
    truth.to_csv(tmp_path / "truth.tsv", sep="\t", index=False, header=False)
    tool = Path(sys.executable).with_name("cafaeval")
    files = [str(gowhy_data / "tiny/go-basic.obo"), str(tmp_path / "pred"), str(tmp_path / "truth.tsv")]
    options = [
        "-ia",
        str(gowhy_data / "tiny/IA.tsv"),
        "-prop",
        "fill",
        "-no_orphans",
        "-threads",
        "1",
        "-out_dir",
        str(tmp_path / "out"),
    ]
    done = run([str(tool), *files, *options])
    assert done.returncode == 0, done.stderr[-2000:]
    own = json.loads((folder / "metrics.json").read_bytes())["test"]["gcn"]
    table = pd.read_csv(tmp_path / "out/evaluation_all.tsv", sep="\t")
    for namespace, aspect in NAMESPACES.items():
        rows = table[table["ns"] == namespace]
        assert own[f"fmax/{aspect}"] == pytest.approx(rows["f"].max(), abs=1e-3)
        assert own[f"fmax_w/{aspect}"] == pytest.approx(rows["f_w"].max(), abs=1e-3)
        assert own[f"smin/{aspect}"] == pytest.approx(rows["s_w"].min(), abs=2e-3)


def test_the_quality_page_shows_every_table(folder) -> None:
    page = (folder / "quality/index.html").read_text()
    for heading in ("Validation proteins", "Test proteins", "By identity", "By what was known", "Calibration", "split"):
        assert heading in page
    assert "http" not in page.replace("http-equiv", ""), "nothing is fetched"
    document = json.loads((folder / "quality/quality.json").read_bytes())
    own = json.loads((folder / "metrics.json").read_bytes())
    for part in ("val", "test"):
        for aspect in ("MF", "BP", "CC"):
            found = document["parts"][part]["fmax_w"]["gcn"][aspect]
            assert found["value"] == pytest.approx(own[part]["gcn"][f"fmax_w/{aspect}"], abs=1e-9)
            assert found["low"] <= found["value"] <= found["high"]
            assert document["parts"][part]["reliability"][aspect]["ece"] == own[part]["gcn"][f"ece/{aspect}"]
            bands = document["parts"][part]["identity"].values()
            assert sum(band[aspect]["proteins"] for band in bands) == document["parts"][part]["annotated"][aspect]
