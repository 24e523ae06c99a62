"""TF-IDF of text as scikit-learn computes it, from a JSON document instead of a pickle.

The same code makes the train features and the features of a protein that is scored later. Embeddings are
stored as float16: whoever compares with them rounds `transform`'s result to float16 first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from shared.errors import DataError

FORMAT = "tfidf/1"
TOKEN_PATTERN = r"(?u)\b\w\w+\b"  # noqa: S105 - scikit-learn's default: words of two or more characters


@dataclass(frozen=True, eq=False)
class Tfidf:
    """A fitted vocabulary. An absent modality has an empty one, and vectors of no columns.

    Attributes:
        vocabulary: words, and word sequences joined by blanks, in column order.
        idf: [column] smoothed inverse document frequency, natural logarithm, plus 1.
        ngram_max: longest word sequence.
        sublinear_tf: use 1 + ln(count) for the count.
        lowercase, strip_accents: what is done to the text first ("unicode": NFKD without combining marks).
    """

    vocabulary: tuple[str, ...]
    idf: npt.NDArray[np.float64]
    ngram_max: int = 1
    sublinear_tf: bool = True
    lowercase: bool = True
    strip_accents: str | None = "unicode"
    token_pattern: str = TOKEN_PATTERN

    @cached_property
    def columns(self) -> dict[str, int]:
        """Word -> column."""
        return {word: column for column, word in enumerate(self.vocabulary)}

    @cached_property
    def _token(self) -> re.Pattern[str]:
        return re.compile(self.token_pattern)

    def transform(self, texts: Iterable[str]) -> sparse.csr_array:
        """Vectors of unit length (zero for texts without a known word).

        Returns:
            CSR float32 [text, column], column indices sorted.
        """
        counts: list[float] = []
        indices: list[int] = []
        indptr = [0]
        for text in texts:
            found: dict[int, int] = {}
            for word in self._words(text):
                if (column := self.columns.get(word)) is not None:
                    found[column] = found.get(column, 0) + 1
            for column in sorted(found):
                indices.append(column)
                counts.append(found[column])
            indptr.append(len(indices))
        rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        values = self._weigh(np.array(counts, np.float64), np.array(indices, np.int64), rows, len(indptr) - 1)
        shape = (len(indptr) - 1, len(self.vocabulary))
        return sparse.csr_array((values, np.array(indices, np.int32), np.array(indptr, np.int64)), shape=shape)

    def _weigh(
        self,
        counts: npt.NDArray[np.float64],
        columns: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64],
        texts: int,
    ) -> npt.NDArray[np.float32]:
        values = (np.log(counts) + 1.0 if self.sublinear_tf else counts) * self.idf[columns]
        lengths = np.sqrt(np.bincount(rows, weights=values**2, minlength=texts))
        return (values / lengths[rows]).astype(np.float32)

    def _words(self, text: str) -> Iterator[str]:
        if self.lowercase:
            text = text.lower()
        if self.strip_accents == "unicode" and not text.isascii():
            text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        tokens = self._token.findall(text)
        yield from tokens
        for length in range(2, self.ngram_max + 1):
            for start in range(len(tokens) - length + 1):
                yield " ".join(tokens[start : start + length])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives the same vectors back."""
        return {
            "format": FORMAT,
            "vocabulary": list(self.vocabulary),
            "idf": self.idf.tolist(),
            "ngram_range": [1, self.ngram_max],
            "sublinear_tf": self.sublinear_tf,
            "lowercase": self.lowercase,
            "strip_accents": self.strip_accents,
            "token_pattern": self.token_pattern,
            "norm": "l2",
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild from `features/text_vectorizer.json`.

        Raises:
            DataError: another format, an option that is not supported, or lists that do not fit.
        """
        where = "text_vectorizer.json"
        try:
            first, ngram_max = value["ngram_range"]
            fixed = (value["format"], value["norm"], value["token_pattern"], first)
            tfidf = cls(
                vocabulary=tuple(str(word) for word in value["vocabulary"]),
                idf=np.array(value["idf"], np.float64),
                ngram_max=int(ngram_max),
                sublinear_tf=bool(value["sublinear_tf"]),
                lowercase=bool(value["lowercase"]),
                strip_accents=value["strip_accents"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a text vectoriser: {error!r}", where=where) from error
        # The pattern is part of the format: a document could otherwise bring one that never ends.
        if fixed != (FORMAT, "l2", TOKEN_PATTERN, 1) or tfidf.strip_accents not in (None, "unicode"):
            raise DataError(f"options that this version does not know: {fixed}", where=where)
        if tfidf.idf.shape != (len(tfidf.vocabulary),) or len(tfidf.columns) != len(tfidf.vocabulary):
            raise DataError("vocabulary and idf do not fit each other, or a word stands twice", where=where)
        if not np.all(np.isfinite(tfidf.idf)):
            raise DataError("an idf is not a number", where=where)
        return tfidf
