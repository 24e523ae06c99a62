from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from fakes.contexts import output, output_bytes, run_stage
from sklearn.feature_extraction.text import TfidfVectorizer

from services.train.stages.stage_03_tfidf_text import STAGE
from shared.config import Config, TfidfConfig
from shared.errors import DataError
from shared.models.tfidf import Tfidf

TEXTS = {
    "P0": "serine threonine kinase binds ATP",
    "P1": "protein kinase with zinc finger",
    "P2": "zinc finger transcription factor",
    "P4": "secretword kinase secretword",  # a validation protein
    "Q0": "kinase onlyintest zinc",
}
TRAIN, TEST = ["P0", "P1", "P2", "P3", "P4"], ["Q1", "Q0", "P1"]  # P3 and Q1 have no text, P1 is in both
ROLES = ["fit", "fit", "fit", "fit", "val"]
CONFIG = Config(tfidf=TfidfConfig(min_df=1, max_df=1.0))


def run(root: Path, texts=TEXTS, config=CONFIG, attempt="staging"):
    inputs = {
        "parsed/train_seq.feather": pd.DataFrame({"id": TRAIN, "sequence": "M"}),
        "parsed/test_seq.feather": pd.DataFrame({"id": TEST, "sequence": "M"}),
        "parsed/splits.feather": pd.DataFrame({"id": TRAIN, "role": ROLES, "fold": 0, "cluster": 0}),
        "external/entryid_text.tsv": pd.DataFrame({"EntryID": list(texts), "text": list(texts.values())}),
    }
    return run_stage(STAGE, root, inputs, config, attempt=attempt)


def arrays(ctx) -> tuple[np.ndarray, np.ndarray]:
    return output(ctx, "features/train_embeds_text.npy"), output(ctx, "features/test_embeds_text.npy")


def test_rows_are_the_proteins_and_columns_the_words(tmp_path):
    ctx = run(tmp_path)
    tfidf = Tfidf.from_json(output(ctx, "features/text_vectorizer.json"))
    oracle = TfidfVectorizer(strip_accents="unicode", ngram_range=(1, 2), sublinear_tf=True, min_df=1)
    oracle.fit([TEXTS[name] for name in ("P0", "P1", "P2")])
    assert tfidf.vocabulary == tuple(oracle.get_feature_names_out())
    for array, ids in zip(arrays(ctx), (TRAIN, TEST), strict=True):
        assert array.dtype == np.float16
        expected = oracle.transform([TEXTS.get(name, "") for name in ids]).toarray()
        np.testing.assert_allclose(array, expected, atol=5e-4)
        np.testing.assert_array_equal(
            array, tfidf.transform(TEXTS.get(n, "") for n in ids).toarray().astype(np.float16)
        )


def test_words_of_validation_and_test_proteins_change_nothing_that_is_fitted(tmp_path):
    (tmp_path / "a").mkdir()
    ctx = run(tmp_path / "a")
    document = output(ctx, "features/text_vectorizer.json")
    assert not {"secretword", "onlyintest"} & set(document["vocabulary"])
    other = run(tmp_path / "b", {**TEXTS, "P4": "zinc zinc", "Q0": "factor"})
    assert output(other, "features/text_vectorizer.json") == document


def test_the_joblib_file_is_a_vectoriser_with_the_same_vectors(tmp_path):
    ctx = run(tmp_path)
    vectorizer = joblib.load(ctx.staging / "features/text_vectorizer.joblib")
    tfidf = Tfidf.from_json(output(ctx, "features/text_vectorizer.json"))
    texts = list(TEXTS.values())
    np.testing.assert_allclose(vectorizer.transform(texts).toarray(), tfidf.transform(texts).toarray(), atol=1e-6)
    assert vectorizer.get_feature_names_out().tolist() == list(tfidf.vocabulary)


def test_many_proteins_are_written_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr("services.train.stages.stage_03_tfidf_text.BLOCK_PROTEINS", 2)
    (tmp_path / "a").mkdir()
    assert output_bytes(run(tmp_path / "a")) == output_bytes(run(tmp_path / "b"))
    monkeypatch.undo()
    assert output_bytes(run(tmp_path / "c")) == output_bytes(run(tmp_path / "a", attempt="again"))


def test_absent_text_still_writes_its_artefacts(tmp_path):
    ctx = run(tmp_path, {})
    train, test = arrays(ctx)
    assert (train.shape, test.shape, train.dtype) == ((5, 0), (3, 0), np.float16)
    assert output(ctx, "features/text_vectorizer.json")["vocabulary"] == []
    assert isinstance(joblib.load(ctx.staging / "features/text_vectorizer.joblib"), TfidfVectorizer)


def test_text_only_outside_the_fitted_proteins_is_absent_with_a_warning(tmp_path):
    ctx = run(tmp_path, {"P4": "kinase", "Q0": "zinc"})
    assert arrays(ctx)[0].shape == (5, 0)
    assert "modality text is absent" in (tmp_path / "logs/run.jsonl").read_text()


def test_no_word_frequent_enough_says_what_to_change(tmp_path):
    with pytest.raises(DataError, match=r"no vocabulary.*tfidf\.min_df"):
        run(tmp_path, config=Config(tfidf=TfidfConfig(min_df=50, max_df=50 / 51)))


def test_bytes_do_not_depend_on_the_process(tmp_path):
    script = textwrap.dedent(
        """
        import sys; from pathlib import Path
        sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests", sys.argv[1] + "/tests/services/train/stages"]
        from test_stage_03_tfidf_text import run
        run(Path(sys.argv[2]))
        """
    )
    repository = Path(__file__).resolve().parents[4]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", script, str(repository), str(tmp_path / "a")], env=environment, check=True)
    ctx = run(tmp_path / "b")
    for path in STAGE.outputs(CONFIG):
        assert (tmp_path / "a/staging" / path).read_bytes() == (ctx.staging / path).read_bytes()
