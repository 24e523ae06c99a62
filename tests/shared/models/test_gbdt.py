"""The trees' features against loops, and what the trees learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.train.models.base import TrainingData
from services.train.models.gbdt import GbdtFitter
from services.train.models.reference import make_reference
from services.train.models.targets import prior_logits
from shared.models.gbdt import FEATURES, VOTE, Gbdt, PairFeatures
from shared.models.homology_vote import HomologyVote
from tests.fakes.level1_run import QUICK, Level1Run, fit_context, training_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return training_data(Level1Run(proteins=200, tests=5).write(tmp_path_factory.mktemp("gbdt")))


@pytest.mark.parametrize("out_of_fold", [False, True])
def test_features_are_what_the_hits_say(data: TrainingData, out_of_fold: bool) -> None:
    fit_rows = np.flatnonzero(data.folds >= 0)
    options = {name: getattr(QUICK.homology, name) for name in VOTE}
    reference = make_reference(data, fit_rows)
    pairs = PairFeatures(HomologyVote(reference, data.terms, **options), data.information)
    rows = fit_rows[::7]
    found = pairs.of(data.features, rows, data.folds if out_of_fold else None)
    hits, labels = data.features.hits, data.labels.toarray() > 0
    supported = 0
    for place, row in enumerate(rows):
        voters = [
            (int(target), hit)
            for hit, target in zip(
                range(*hits.of(row).indices(len(hits.target))), hits.target[hits.of(row)], strict=True
            )
            if data.folds[target] >= 0 and not (out_of_fold and data.folds[target] == data.folds[row])
        ]
        for term in range(len(data.terms)):
            known = [(t, h) for t, h in voters if data.annotated[t, data.aspects[term]]]
            having = [(t, h) for t, h in known if labels[t, term]]
            identity = hits.fident * np.minimum(hits.qcov, hits.tcov)
            expected = {
                "hits_having": len(having),
                "hits_known": len(known),
                "identity_having": max((identity[h] for _, h in having), default=0),
                "identity_known": max((identity[h] for _, h in known), default=0),
                "bits_having": np.log1p(max((hits.bits[h] for _, h in having), default=0)),
                "weight_having": np.log1p(sum(hits.weights(options["identity_power"])[h] for _, h in having)),
                "information": data.information[term],
                "length": np.log1p(len(data.features.sequences[row])),
            }
            supported += bool(having)
            for name, value in expected.items():
                assert found[place, term, FEATURES.index(name)] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert supported > 20


def test_the_trees_learn_from_the_hits(data: TrainingData, tmp_path: Path) -> None:
    """On rows of a fold that they were not fitted on: clearly better than the priors, and as good without the fold."""
    own = np.flatnonzero(data.folds == 1)
    rows = np.flatnonzero((data.folds >= 0) & (data.folds != 1))
    config = QUICK.model_copy(update={"gbdt": QUICK.gbdt.model_copy(update={"trees": 40, "min_pairs": 20})})
    known = data.annotated[own][:, data.aspects]

    def loss(logits: np.ndarray) -> float:
        losses = np.logaddexp(0, logits) - (data.labels[own].toarray() > 0) * logits
        return float(losses[known].mean())

    trees = GbdtFitter().fit(data, rows, fit_context(tmp_path, config, fold=1)).logits(data.features, own)
    assert loss(trees) < 0.8 * loss(np.broadcast_to(prior_logits(data, rows), trees.shape))


def test_trees_of_other_features_are_refused(data: TrainingData, tmp_path: Path) -> None:
    model = GbdtFitter().fit(data, np.flatnonzero(data.folds > 0), fit_context(tmp_path, QUICK, fold=0))
    with pytest.raises(ValueError, match="features"):
        Gbdt.restore({**model.architecture(), "features": ["other"]}, model.arrays())
