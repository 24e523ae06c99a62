from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes.contexts import output, output_bytes, run_stage
from pyarrow import parquet

from services.train.models.inputs import TRAINING_ARTEFACTS, load_splits
from services.train.stage import StageContext
from services.train.stages import stage_01_parsed
from services.train.stages.stage_01_parsed import STAGE
from shared.config import Config
from shared.digests import digest_of_lines, sha256_file
from shared.errors import DataError, MissingInput
from shared.homology import HIT_COLUMNS
from shared.models.features import Hits
from shared.ontology import ASPECTS, Ontology

OBO = """format-version: 1.2
data-version: releases/test

[Term]
id: GO:0003674
name: molecular_function
namespace: molecular_function

[Term]
id: GO:0000001
name: binding
namespace: molecular_function
alt_id: GO:0000011
is_a: GO:0003674

[Term]
id: GO:0000004
name: tight binding
namespace: molecular_function
is_a: GO:0000001

[Term]
id: GO:0008150
name: biological_process
namespace: biological_process

[Term]
id: GO:0000002
name: growth
namespace: biological_process
is_a: GO:0008150

[Term]
id: GO:0000099
name: gone
namespace: molecular_function
is_obsolete: true
"""
CONFIG = Config.model_validate({"split": {"folds": 2}, "homology": {"evalue": 0.001}})
Edit = Callable[[dict[str, str]], None]


def sequences(count: int) -> list[str]:
    generator = random.Random(3)
    return ["".join(generator.choices("ACDEFGHIKLMNPQRSTVWY", k=120)) for _ in range(count)]


def texts() -> dict[str, str]:
    """A small dataset by config key; T0 and T9 are equal, T9's label is the only one of tight binding."""
    made = sequences(12)
    made[9] = made[0]
    train = "".join(f">sp|T{i}|NAME OS=X OX={100 + i}\n{sequence}\n" for i, sequence in enumerate(made[:10]))
    test = f">Q0\t9606\n{made[1]}\n>Q1\n{made[10]}\n"
    labels = [f"T{i}\tGO:0000001\tF\n" for i in range(8)]
    return {
        "train_fasta": train,
        "train_terms": "EntryID\tterm\taspect\n" + "".join(labels) + "T3\tGO:0000002\tBPO\nT9\tGO:0000004\tMF\n",
        "train_taxonomy": "T0\t7\nT1\t8\n",
        "test_fasta": test,
        "test_terms": "Q0\tGO:0000004\n",
        "known_terms": "Q1\tGO:0000002\tP\n",
        "obo": OBO,
        "split_ids": "T0\nT1\n",
    }


def run(root: Path, edit: Edit | None = None, config: Config = CONFIG) -> StageContext:
    values = texts()
    if edit is not None:
        edit(values)
    root.mkdir(exist_ok=True)
    files = {}
    for key, text in values.items():
        files[f"data.{key}"] = root / key
        files[f"data.{key}"].write_text(text)
    return run_stage(STAGE, root, {}, config, files)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    return run(tmp_path_factory.mktemp("stage") / "root")


def test_proteins_keep_their_order_and_taxa_come_from_file_then_header(done: StageContext) -> None:
    assert output(done, "parsed/train_seq.feather")["id"].tolist() == [f"T{i}" for i in range(10)]
    assert output(done, "parsed/train_seq.feather")["sequence"].tolist()[:9] == sequences(9)
    assert output(done, "parsed/train_taxa.feather")["taxon_id"].tolist() == [7, 8, *range(102, 110)]
    assert output(done, "parsed/test_taxa.feather").to_dict("list") == {"id": ["Q0", "Q1"], "taxon_id": [9606, 0]}


def test_labels_are_propagated_and_marked(done: StageContext) -> None:
    terms = output(done, "parsed/train_terms.parquet")
    assert terms.columns.tolist() == ["id", "term", "aspect", "stated"]
    assert terms[terms["id"] == "T9"].drop(columns="id").values.tolist() == [
        ["GO:0003674", "MF", False],
        ["GO:0000001", "MF", False],
        ["GO:0000004", "MF", True],
    ]
    assert terms["stated"].sum() == 10
    truth = output(done, "parsed/test_truth.parquet")
    assert truth["id"].unique().tolist() == ["Q0"]
    assert len(truth) == 3
    assert output(done, "parsed/known_terms.parquet")["term"].tolist() == ["GO:0008150", "GO:0000002"]


def test_the_split_obeys_the_list_and_takes_the_copy_along(done: StageContext) -> None:
    splits = output(done, "parsed/splits.feather")
    assert splits.columns.tolist() == ["id", "role", "fold", "cluster"]
    assert splits["fold"].dtype == np.int8
    assert splits["cluster"].dtype == np.int64
    assert splits.loc[splits["role"] == "val", "id"].tolist() == ["T0", "T1", "T9"]
    assert splits.loc[splits["role"] == "val", "fold"].tolist() == [-1] * 3
    assert splits["cluster"][0] == splits["cluster"][9]
    record = output(done, "parsed/splits.json")
    assert record["moved_to_val_as_identical"] == {"count": 1, "examples": ["T9"]}
    assert record["ids_sha256"]["val"] == digest_of_lines(["T0", "T1", "T9"])
    assert record["near_pairs"]["val_fit"]["pairs"] == 0
    assert record["near_pairs"]["pairs"] == 1, "the two copies, both in validation"
    assert record["searcher"].startswith("MMseqs2")
    assert record["seed"] == CONFIG.split.seed
    assert record["sizes"] == {"fit": 7, "val": 3, "fold_0": 4, "fold_1": 3}


def test_homology_tables_have_rows_of_the_sequence_tables(done: StageContext) -> None:
    train, test = (output(done, f"parsed/homology_{part}.feather") for part in ("train", "test"))
    assert train[["query", "target"]].values.tolist() == [[0, 9], [9, 0]]
    assert test[["query", "target"]].values.tolist() == [[0, 1]], "the equal protein in train is a hit"
    assert tuple(train.columns) == tuple(test.columns) == HIT_COLUMNS
    assert Hits.from_frame(test, 2).indptr.tolist() == [0, 1, 1]


def test_no_label_of_a_validation_protein_is_counted(done: StageContext, tmp_path: Path) -> None:
    priors = output(done, "parsed/term_priors.parquet").set_index("term")
    assert priors.columns.tolist() == ["aspect", "count", "prior", "conditional_prior", "ia"]
    assert set(priors.index) == {"GO:0003674", "GO:0000001", "GO:0000004", "GO:0008150", "GO:0000002"}
    # T2..T7 have binding, T3 alone growth; T9, the only one with tight binding, is validation.
    assert priors["count"].to_dict() == {
        "GO:0003674": 6,
        "GO:0000001": 6,
        "GO:0000004": 0,
        "GO:0008150": 1,
        "GO:0000002": 1,
    }
    assert priors["prior"].to_dict()["GO:0008150"] == 1.0, "among proteins with any label of the aspect"
    assert priors["ia"]["GO:0000004"] == pytest.approx(np.log2(7 / 1))

    def other_validation_labels(values: dict[str, str]) -> None:
        values["train_terms"] = values["train_terms"].replace("T9\tGO:0000004\tMF\n", "T0\tGO:0000002\tP\n")

    ctx = run(tmp_path / "other", other_validation_labels)
    assert (ctx.staging / "parsed/term_priors.parquet").read_bytes() == (
        done.staging / "parsed/term_priors.parquet"
    ).read_bytes()


def test_a_given_information_accretion_is_used_and_said(tmp_path: Path, done: StageContext) -> None:
    def with_ia(values: dict[str, str]) -> None:
        values["ia"] = "GO:0000001\t2.5\n"

    ctx = run(tmp_path / "ia", with_ia)
    priors = output(ctx, "parsed/term_priors.parquet").set_index("term")["ia"]
    assert priors[priors > 0].to_dict() == {"GO:0000001": 2.5}
    assert output(ctx, "parsed/dataset_manifest.json")["ia_source"] == "file"
    assert output(done, "parsed/dataset_manifest.json")["ia_source"].startswith("computed")


def test_the_manifest_hashes_every_file_and_names_no_path(done: StageContext) -> None:
    manifest = output(done, "parsed/dataset_manifest.json")
    assert manifest["name"] == "files"
    assert set(manifest["files"]) == {key.removeprefix("data.") for key in done.files}
    for key, path in done.files.items():
        assert manifest["files"][key.removeprefix("data.")]["sha256"] == sha256_file(path)
    rows = {key: file["rows"] for key, file in manifest["files"].items()}
    assert rows == {
        "train_fasta": 10,
        "train_terms": 10,
        "train_taxonomy": 2,
        "test_fasta": 2,
        "test_terms": 1,
        "known_terms": 1,
        "obo": 5,
        "split_ids": 2,
    }
    assert str(done.run_folder.parent) not in (done.staging / "parsed/dataset_manifest.json").read_text()


def test_what_the_models_read_fits(done: StageContext) -> None:
    splits = load_splits(lambda path: output(done, path), [f"T{i}" for i in range(10)])
    assert splits.fold_numbers() == [0, 1]
    assert set(TRAINING_ARTEFACTS) <= set(STAGE.outputs(CONFIG))
    ontology = Ontology.from_json(output(done, "parsed/ontology.json"))
    assert list(ontology.terms) == output(done, "parsed/term_priors.parquet")["term"].tolist()


def test_optional_inputs_may_be_absent(tmp_path: Path) -> None:
    def minimal(values: dict[str, str]) -> None:
        for key in ("train_taxonomy", "test_terms", "known_terms", "split_ids"):
            del values[key]

    ctx = run(tmp_path / "minimal", minimal)
    for path in ("parsed/test_truth.parquet", "parsed/known_terms.parquet"):
        empty = output(ctx, path)
        assert empty.columns.tolist() == ["id", "term", "aspect", "stated"]
        assert len(empty) == 0
        assert [kind.name for kind in empty.dtypes] == ["category", "category", "category", "bool"]
        types = [parquet.read_schema(ctx.staging / name).types for name in (path, "parsed/train_terms.parquet")]
        assert types[0] == types[1]
    assert output(ctx, "parsed/splits.json")["validation"] == "clusters drawn by seed"
    assert output(ctx, "parsed/train_taxa.feather")["taxon_id"].tolist() == list(range(100, 110))


def test_a_second_run_writes_the_same_bytes(done: StageContext, tmp_path: Path) -> None:
    assert output_bytes(run(tmp_path / "again")) == output_bytes(done)


def test_a_killed_run_does_not_search_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done) -> None:
    calls: list[int] = []
    original = stage_01_parsed.search

    def dying(queries, targets, **options):
        calls.append(len(queries))
        if options.get("within"):
            raise KeyboardInterrupt
        return original(queries, targets, **options)

    monkeypatch.setattr(stage_01_parsed, "search", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed/cache/homology").iterdir()}
    assert len(kept) == 1, "the first search"
    ctx = run(tmp_path / "killed")
    assert output_bytes(ctx) == output_bytes(done)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def replace(key: str, old: str, new: str) -> Edit:
    def edit(values: dict[str, str]) -> None:
        assert old in values[key]
        values[key] = values[key].replace(old, new)

    return edit


def nearly_copy(values: dict[str, str]) -> None:
    """T9 differs from T0, which is listed for validation, in two of 120 residues."""
    first = sequences(1)[0]
    other = "".join("W" if place in (40, 80) else residue for place, residue in enumerate(first))
    assert other != first
    head, _, tail = values["train_fasta"].rpartition(first)
    values["train_fasta"] = head + other + tail


def test_a_near_copy_of_a_validation_protein_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"1 pairs of a validation and a fit protein are near copies.*T0 and T9"
    ) as caught:
        run(tmp_path / "refused", nearly_copy)
    assert "split.near_copy_identity" in caught.value.remedy
    allowed = Config.model_validate({"split": {"folds": 2, "near_copy_identity": 1.01}})
    run(tmp_path / "allowed", nearly_copy, allowed)


def test_a_test_label_that_train_holds_stops_the_run(tmp_path: Path) -> None:
    def leak(values: dict[str, str]) -> None:
        values["test_fasta"] += f">T5\n{sequences(6)[5]}\n"
        values["test_terms"] += "T5\tGO:0000001\n"

    with pytest.raises(DataError, match="1 labels of the test truth are labels of the same proteins"):
        run(tmp_path / "leak", leak)


def put(key: str, text: str) -> Edit:
    return lambda values: values.__setitem__(key, text)


@pytest.mark.parametrize(
    ("edit", "says", "where"),
    [
        (replace("train_fasta", ">sp|T3|NAME", ">sp|T2|NAME"), "T2 is there twice, at lines 5 and 7", "train_fasta:7"),
        (replace("train_fasta", ">sp|T0|NAME OS=X OX=100\n", ""), "before the first header", "train_fasta:1"),
        (put("test_fasta", ""), "no protein", "test_fasta"),
        (put("test_fasta", ">Q0\nMK-V\n"), "illegal character", "test_fasta:2"),
        (replace("train_terms", "T3\tGO:0000001\tF", "T3\tGO:0000001\tQ"), "unknown aspect 'Q'", "train_terms:5"),
        (
            replace("train_terms", "T3\tGO:0000001\tF", "T3\tGO:0000001\tC"),
            "is a term of MF, not of C",
            "train_terms:5",
        ),
        (put("train_terms", "A1\tGO:0000001\tF\n"), "no train protein has a label", "train_terms"),
        (put("train_terms", "T1\tGO:0000099\tF\n"), "no train protein has a label", "train_terms"),
        (put("train_terms", "T0\tGO:0000001\tF\n"), "no fit protein has a label", "data.train_terms"),
        (put("train_taxonomy", "T0\t9606\nT1\thuman\n"), "is no number", "train_taxonomy:2"),
        (put("test_terms", "Q0\tGO:0000002\tF\n"), "is a term of BP, not of F", "test_terms:1"),
        (put("ia", "GO:0000001\t-3\n"), "not a number of bits", "ia:1"),
        (put("obo", "format-version: 1.2\n"), "no [Term]", "obo:1"),
        (put("split_ids", "X1\nX2\n"), "none of 2 validation ids", "data.split_ids"),
        (put("split_ids", ""), "no accession", "split_ids"),
    ],
)
def test_wrong_inputs_end_with_65_the_file_and_the_line(tmp_path: Path, edit: Edit, says: str, where: str) -> None:
    with pytest.raises(DataError) as caught:
        run(tmp_path / "bad", edit)
    assert says in caught.value.what
    assert str(caught.value.where).endswith(where)
    assert caught.value.exit_code == 65
    assert caught.value.remedy


@pytest.mark.parametrize("key", ["train_fasta", "train_terms", "test_fasta", "obo"])
def test_unset_inputs_end_with_66_and_the_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(MissingInput, match=rf"data\.{key} is not set.*--set data\.{key}=PATH") as caught:
        run(tmp_path / "unset", lambda values: values.pop(key))
    assert caught.value.exit_code == 66


def test_what_is_left_out_is_counted_and_warned_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("shared.logs.Logger.warning", lambda _self, message, **_fields: said.append(message))

    def edit(values: dict[str, str]) -> None:
        values["train_terms"] += "T1\tGO:0000099\tF\nT2\tGO:7777777\tF\nT3\tGO:7777777\tF\nX1\tGO:0000001\tF\n"
        values["split_ids"] += "X1\n"

    left_out = output(run(tmp_path / "odd", edit), "parsed/dataset_manifest.json")["left_out"]["train_terms"]
    assert left_out["unknown"] == {"terms": 1, "rows": 2, "examples": ["GO:7777777"]}
    assert left_out["obsolete"] == {"terms": 1, "rows": 1, "examples": ["GO:0000099"]}
    assert left_out["other_proteins"] == {"proteins": 1, "rows": 1, "examples": ["X1"]}
    assert sum("terms that the OBO does not have" in message for message in said) == 1
    assert sum("not in the FASTA" in message for message in said) == 1
    assert sum("not in the train FASTA" in message for message in said) == 1


@pytest.mark.real_data
def test_tiny(gowhy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.train.data import dataset_defaults

    monkeypatch.setenv("GOWHY_DATA", str(gowhy_data))
    files = {f"data.{key}": path for key, path in dataset_defaults("tiny", "1", tmp_path).items()}
    config = Config.model_validate({"data": {"name": "tiny"}})
    ctx = run_stage(STAGE, tmp_path, {}, config, files)
    assert len(output(ctx, "parsed/train_seq.feather")) == 240
    assert len(output(ctx, "parsed/test_seq.feather")) == 60
    terms = output(ctx, "parsed/train_terms.parquet")
    written = pd.read_csv(files["data.train_terms"], sep="\t").drop_duplicates(["EntryID", "term"])
    assert terms["stated"].sum() == len(written) == 1390
    splits = output(ctx, "parsed/splits.feather")
    assert splits.groupby("cluster")["fold"].nunique().max() == 1
    fit = set(splits.loc[splits["role"] == "fit", "id"])
    priors = output(ctx, "parsed/term_priors.parquet").set_index("term")
    counted = terms[terms["id"].isin(fit)].groupby("term")["id"].nunique()
    assert priors.loc[counted.index, "count"].tolist() == counted.tolist()
    assert priors["count"].sum() == counted.sum()
    roots = {"MF": "GO:0003674", "BP": "GO:0008150", "CC": "GO:0005575"}
    assert [priors["prior"][roots[aspect]] for aspect in ASPECTS] == [1.0, 1.0, 1.0]
    assert output(ctx, "parsed/splits.json")["near_pairs"]["val_fit"]["pairs"] <= 2
