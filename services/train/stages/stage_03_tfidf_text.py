"""Stage 3: TF-IDF vectors of the text.

Vocabulary and idf come from the fitted train proteins that have text, and from no validation or test
protein. They need no labels, so one fit serves all folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer

from services.train.stage import Stage, StageContext, always
from services.train.text.lines import blocks_of_texts, iterate_texts
from shared.config import TfidfConfig
from shared.errors import DataError
from shared.models.tfidf import TOKEN_PATTERN, Tfidf

TEXTS = "external/entryid_text.tsv"
BLOCK_PROTEINS = 512  # 512 x 5000 float32 are 10 MB


def run(ctx: StageContext) -> None:
    """Fit on the fitted proteins' texts, write the vectoriser and both arrays."""
    settings = ctx.settings(TfidfConfig)
    splits = ctx.read("parsed/splits.feather")
    fitted = frozenset(splits["id"][splits["role"] == "fit"])
    tfidf = _fit(settings, ctx.input(TEXTS), fitted)
    if not tfidf.vocabulary:
        ctx.log.warning("no fitted protein has text: the modality text is absent")
    ctx.write("features/text_vectorizer.json", tfidf.to_json())
    _write_joblib(ctx.output("features/text_vectorizer.joblib"), settings, tfidf)
    rows, arrays = {}, {}
    for part in ("train", "test"):
        ids = ctx.read(f"parsed/{part}_seq.feather")["id"]
        rows[part] = {name: row for row, name in enumerate(ids)}
        shape = (len(ids), len(tfidf.vocabulary))
        arrays[part] = ctx.create_array(f"features/{part}_embeds_text.npy", shape, "float16")
    if tfidf.vocabulary:
        _fill(ctx, tfidf, rows, arrays)


def _vectorizer(settings: TfidfConfig, vocabulary: Mapping[str, int] | None = None) -> TfidfVectorizer:
    return TfidfVectorizer(
        lowercase=True,
        strip_accents="unicode",
        token_pattern=TOKEN_PATTERN,
        ngram_range=(1, settings.ngram_max),
        max_features=settings.max_features,
        min_df=settings.min_df,
        max_df=settings.max_df,
        sublinear_tf=settings.sublinear_tf,
        vocabulary=vocabulary,
    )


def _fit(settings: TfidfConfig, path: Path, fitted: frozenset[str]) -> Tfidf:
    """Fit on the texts of `fitted`; an empty vocabulary where none of them has text.

    Raises:
        DataError: there is text, but no word is frequent and rare enough.
    """
    if not any(name in fitted for name, _text in iterate_texts(path)):
        return Tfidf((), np.zeros(0), settings.ngram_max, settings.sublinear_tf)
    vectorizer = _vectorizer(settings)
    try:
        vectorizer.fit(text for name, text in iterate_texts(path) if name in fitted)
    except ValueError as error:
        raise DataError(
            f"no vocabulary: {error}", where=TEXTS, remedy="Lower tfidf.min_df, raise tfidf.max_df, or give more text"
        ) from error
    words = tuple(str(word) for word in vectorizer.get_feature_names_out())
    return Tfidf(words, np.asarray(vectorizer.idf_, np.float64), settings.ngram_max, settings.sublinear_tf)


def _write_joblib(path: Path, settings: TfidfConfig, tfidf: Tfidf) -> None:
    """Write a scikit-learn vectoriser with this vocabulary; equal input gives equal bytes.

    The one that was fitted remembers the address of an object, which is another in every process.
    """
    vectorizer = _vectorizer(settings, dict(tfidf.columns) or None)
    if tfidf.vocabulary:
        vectorizer.idf_ = tfidf.idf.copy()
    joblib.dump(vectorizer, path)


def _fill(
    ctx: StageContext,
    tfidf: Tfidf,
    rows: Mapping[str, Mapping[str, int]],
    arrays: Mapping[str, npt.NDArray[np.float16]],
) -> None:
    """Write the vectors block by block; proteins without text keep zeros."""
    with ctx.progress("vectors", sum(map(len, rows.values())), "proteins") as bar:
        for block in blocks_of_texts(ctx.input(TEXTS), BLOCK_PROTEINS):
            vectors = tfidf.transform(text for _name, text in block).toarray().astype(np.float16)
            for part, array in arrays.items():
                places = [(i, rows[part][name]) for i, (name, _text) in enumerate(block) if name in rows[part]]
                if places:
                    sources, targets = zip(*places, strict=True)
                    array[list(targets)] = vectors[list(sources)]
            bar.advance(len(block))


STAGE = Stage(
    id="stage_03_tfidf_text",
    version=1,
    run=run,
    inputs=always("parsed/train_seq.feather", "parsed/test_seq.feather", "parsed/splits.feather", TEXTS),
    outputs=always(
        "features/text_vectorizer.joblib",
        "features/text_vectorizer.json",
        "features/train_embeds_text.npy",
        "features/test_embeds_text.npy",
    ),
    sections=(TfidfConfig,),
)
