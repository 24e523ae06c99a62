from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from shared.errors import DataError
from shared.models.tfidf import TOKEN_PATTERN, Tfidf

WORDS = st.sampled_from(
    ["kinase", "Kinase", "KINASE", "ATP", "Ångström", "naïve", "ß", "İ", "2Fe-2S", "a", "β-sheet", "ﬁbre", "zinc"]
)
TEXT = st.lists(WORDS | st.text(max_size=6), max_size=12).map(" ".join)


def fitted(texts, ngram_max=2, sublinear_tf=True) -> tuple[TfidfVectorizer, Tfidf]:
    oracle = TfidfVectorizer(
        strip_accents="unicode", token_pattern=TOKEN_PATTERN, ngram_range=(1, ngram_max), sublinear_tf=sublinear_tf
    ).fit(texts)
    words = tuple(str(word) for word in oracle.get_feature_names_out())
    return oracle, Tfidf(words, oracle.idf_, ngram_max, sublinear_tf)


@settings(deadline=None)
@given(
    texts=st.lists(TEXT, min_size=1, max_size=8),
    others=st.lists(TEXT, max_size=5),
    ngram_max=st.integers(1, 3),
    sublinear_tf=st.booleans(),
)
def test_vectors_equal_scikit_learns(texts, others, ngram_max, sublinear_tf):
    oracle, tfidf = fitted([*texts, "so there is a word"], ngram_max, sublinear_tf)
    restored = Tfidf.from_json(json.loads(json.dumps(tfidf.to_json())))
    found = restored.transform([*texts, *others, ""])
    expected = oracle.transform([*texts, *others, ""])
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-6, rtol=0)
    assert found.has_canonical_format
    lengths = np.sqrt((found.toarray() ** 2).sum(1))
    assert np.all((np.abs(lengths - 1) < 1e-6) | (lengths == 0))


def test_an_empty_vocabulary_gives_vectors_of_no_columns():
    tfidf = Tfidf.from_json(Tfidf((), np.zeros(0)).to_json())
    assert tfidf.transform(["some text", ""]).shape == (2, 0)
    assert tfidf.transform([]).shape == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "tfidf/2"},
        {"norm": "l1"},
        {"token_pattern": "(a+)+$"},
        {"ngram_range": [2, 2]},
        {"ngram_range": 3},
        {"strip_accents": "ascii"},
        {"idf": [1.0]},
        {"idf": [1.0, float("nan")]},
        {"idf": [1.0, "x"]},
        {"vocabulary": ["atp", "atp"]},
        {"vocabulary": None},
    ],
    ids=str,
)
def test_a_document_that_does_not_fit_is_refused(change):
    document = Tfidf(("atp", "kinase"), np.ones(2)).to_json()
    assert Tfidf.from_json(document).vocabulary == ("atp", "kinase")
    with pytest.raises(DataError, match="text_vectorizer"):
        Tfidf.from_json({**document, **change})
    with pytest.raises(DataError, match="text_vectorizer"):
        Tfidf.from_json({key: value for key, value in document.items() if key not in change})


def test_scikit_learn_is_not_imported():
    code = "import sys, shared.models.tfidf; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
