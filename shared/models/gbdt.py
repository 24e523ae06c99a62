"""Gradient-boosted trees over (protein, term) pairs: how much homology, taxon and frequency are worth together.

One LightGBM model per aspect reads what the votes see, but not added up: the closest hit that has the term,
how many have it, how many were annotated at all. A linear blend of votes cannot say "one hit at 90 % identity
is enough, three at 30 % are not".

Source of the idea: the learning-to-rank stage of NetGO and GOCurator, and PROTEA's re-ranker.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from shared.compiled import compiled
from shared.errors import MissingInput
from shared.models.base import LOGIT_LIMIT, logit
from shared.models.features import Features, FloatArray, IntArray
from shared.models.homology_vote import HomologyVote
from shared.models.reference import Reference
from shared.nn.transforms import row_blocks

if TYPE_CHECKING:
    import lightgbm

BLOCK_ROWS = 256
FEATURES = (
    "vote",
    "taxon_prior",
    "prior",
    "weight_having",
    "weight_known",
    "identity_having",
    "identity_known",
    "bits_having",
    "hits_having",
    "hits_known",
    "length",
    "information",
)
VOTE = ("identity_power", "prior_weight", "taxon_weight")


class PairFeatures:
    """What the trees read of a protein and a term, float32 [protein, term, FEATURES].

    Args:
        vote: the homology vote over the reference, with its options.
        information: [term], information accretion in bits.
    """

    def __init__(self, vote: HomologyVote, information: FloatArray) -> None:
        self.vote, self.reference, self.information = vote, vote.reference, information

    def of(self, features: Features, rows: IntArray, folds: IntArray | None = None) -> FloatArray:
        """Features of the proteins at `rows`; with `folds` ([train row]), reference proteins of their own fold are not seen.

        Raises:
            MissingInput: no search was made for these proteins.
        """
        if features.hits is None:
            raise MissingInput(
                "no homology search was made for these proteins",
                where="the boosted trees",
                remedy="Search them against the reference first",
            )
        reference, vote = self.reference, self.vote
        own = None if folds is None else folds[rows]
        taxon = reference.taxon_priors(features.taxa[rows], vote.taxon_weight, own, folds)
        weights = vote.weights(features.hits, rows, folds)
        logits = reference.vote(weights, taxon, vote.prior_weight)
        support = self._support(features, rows, folds)
        result = np.empty((len(rows), len(reference.aspects), len(FEATURES)), np.float32)
        result[..., 0] = logits
        result[..., 1] = logit(taxon)
        result[..., 2] = logit(reference.priors)
        result[..., 3:10] = support
        result[..., 10] = np.log1p(np.array([len(features.sequences[row]) for row in rows], np.float32))[:, None]
        result[..., 11] = self.information
        return result

    def _support(self, features: Features, rows: IntArray, folds: IntArray | None) -> FloatArray:
        reference = self.reference
        assert features.hits is not None  # noqa: S101 - the caller has refused it
        hits = features.hits.among(rows)
        position = reference.positions(hits.target)
        if folds is not None:
            # Only queries among the train rows have a fold of their own.
            position = np.where(folds[rows[hits.queries()]] == folds[hits.target], -1, position)
        found = np.zeros((len(rows), len(reference.aspects), 7), np.float32)
        identity = hits.fident * np.minimum(hits.qcov, hits.tcov)
        values = np.stack([hits.weights(self.vote.identity_power), identity, hits.bits], axis=1)
        labels = (reference.labels.indptr.astype(np.int64), reference.labels.indices.astype(np.int64))
        _collect(
            np.arange(len(rows)),
            (hits.indptr, position, values),
            labels,
            (reference.annotated, reference.aspects),
            found,
        )
        for place in (0, 1, 4):  # weights and bits have long tails
            found[..., place] = np.log1p(found[..., place])
        return found


@compiled
def _collect(
    rows: IntArray,
    hits: tuple[IntArray, IntArray, FloatArray],
    labels: tuple[IntArray, IntArray],
    known: tuple[npt.NDArray[np.bool_], npt.NDArray[np.int8]],
    found: FloatArray,
) -> None:
    """Fill [row, term, 7]: weight having, weight known, identity having, identity known, bits having, two counts."""
    indptr, position, values = hits
    label_start, label_term = labels
    annotated, aspects = known
    terms = found.shape[1]
    total = np.zeros((annotated.shape[1], 3), np.float32)
    for place in range(len(rows)):
        total[:] = 0
        for hit in range(indptr[rows[place]], indptr[rows[place] + 1]):
            protein = position[hit]
            if protein < 0:
                continue
            weight, identity, bits = values[hit, 0], values[hit, 1], values[hit, 2]
            for aspect in range(annotated.shape[1]):
                if annotated[protein, aspect]:
                    total[aspect, 0] += weight
                    total[aspect, 1] = max(total[aspect, 1], identity)
                    total[aspect, 2] += 1
            for label in range(label_start[protein], label_start[protein + 1]):
                term = label_term[label]
                found[place, term, 0] += weight
                found[place, term, 2] = max(found[place, term, 2], identity)
                found[place, term, 4] = max(found[place, term, 4], bits)
                found[place, term, 5] += 1
        for term in range(terms):
            found[place, term, 1] = total[aspects[term], 0]
            found[place, term, 3] = total[aspects[term], 1]
            found[place, term, 6] = total[aspects[term], 2]


class Gbdt:
    """Boosted trees per aspect; terms that were not learnt keep their prior.

    Args:
        reference: labelled proteins of the fit.
        terms: columns.
        options: of the vote among the features (VOTE).
        information: [term], bits.
        learnt: [term], whether the trees score it.
        models: aspect -> LightGBM's text format, UTF-8.
    """

    kind: ClassVar[str] = "gbdt"
    is_torch: ClassVar[bool] = False

    def __init__(
        self,
        reference: Reference,
        terms: tuple[str, ...],
        options: Mapping[str, float],
        *,
        information: FloatArray,
        learnt: npt.NDArray[np.bool_],
        models: Mapping[int, bytes],
    ) -> None:
        self.reference, self.terms, self.options = reference, terms, dict(options)
        self.information, self.learnt, self.models = information, learnt, dict(models)
        self.pairs = PairFeatures(HomologyVote(reference, terms, **self.options), information)

    @cached_property
    def boosters(self) -> dict[int, lightgbm.Booster]:
        """Aspect -> trees."""
        import lightgbm  # noqa: PLC0415 - only runs that use it pay for it

        return {aspect: lightgbm.Booster(model_str=text.decode()) for aspect, text in self.models.items()}

    def logits(self, features: Features, rows: IntArray) -> FloatArray:
        """Logits [len(rows), term]."""
        scores = np.empty((len(rows), len(self.terms)), np.float32)
        for place, block in row_blocks(rows, BLOCK_ROWS):
            scores[place] = logit(self.reference.priors)
            pairs = self.pairs.of(features, block)
            for aspect, booster in self.boosters.items():
                columns = np.flatnonzero(self.learnt & (self.reference.aspects == aspect))
                chosen = pairs[:, columns].reshape(-1, len(FEATURES))
                raw = np.asarray(booster.predict(chosen, raw_score=True, num_threads=1), np.float32)
                scores[place, columns] = np.clip(raw, -LOGIT_LIMIT, LOGIT_LIMIT).reshape(len(block), -1)
        return scores

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Reference, facts about the terms, and the trees as bytes of text."""
        trees = {f"trees.{aspect}": np.frombuffer(text, np.uint8).copy() for aspect, text in self.models.items()}
        return {**self.reference.arrays(), "information": self.information, "learnt": self.learnt, **trees}

    def architecture(self) -> dict[str, Any]:
        """Terms, options of the vote and the names of the features."""
        return {"terms": list(self.terms), "features": list(FEATURES), **self.options}

    @classmethod
    def restore(cls, architecture: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Rebuild from plain values.

        Raises:
            ValueError: the trees read other features than this version has.
        """
        if tuple(architecture["features"]) != FEATURES:
            raise ValueError(f"features {architecture['features']}, not {list(FEATURES)}")
        models = {
            int(name.removeprefix("trees.")): array.tobytes()
            for name, array in arrays.items()
            if name.startswith("trees.")
        }
        return cls(
            Reference.restore(arrays),
            tuple(architecture["terms"]),
            {name: float(architecture[name]) for name in VOTE},
            information=arrays["information"],
            learnt=arrays["learnt"],
            models=models,
        )
