"""Fits boosted trees on (protein, term) pairs, whose features leave the protein's own fold out."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from services.train.models.base import FitContext, Targets, TrainingData
from services.train.models.pyboost import fit_trees
from services.train.models.reference import make_reference
from services.train.models.targets import learnable_terms
from shared.config.level1 import GbdtConfig
from shared.models.features import FloatArray, IntArray
from shared.models.gbdt import BLOCK_ROWS, FEATURES, VOTE, Gbdt, PairFeatures
from shared.models.homology_vote import HomologyVote
from shared.nn.transforms import row_blocks

HITS_HAVING = FEATURES.index("hits_having")
Pairs = tuple[FloatArray, npt.NDArray[np.bool_], FloatArray]  # features, labels, weights


class GbdtFitter:
    """Registry entry `gbdt`."""

    name: ClassVar[str] = "gbdt"
    settings: ClassVar[str] = "gbdt"
    sections: ClassVar[tuple[str, ...]] = ("gbdt", "homology")
    modalities: ClassVar[tuple[str, ...]] = ()
    votes: ClassVar[bool] = False
    targets: ClassVar[Targets] = "raw"

    def fit(self, data: TrainingData, rows: IntArray, context: FitContext) -> Gbdt:
        """Fit on `rows`: every positive pair, every pair that a hit supports, and a sample of the others."""
        config, options = context.config, context.config.gbdt
        vote = {name: getattr(config.homology, name) for name in VOTE}
        reference = make_reference(data, rows)
        learnt = learnable_terms(data, rows, config.min_positives)
        pairs = PairFeatures(HomologyVote(reference, data.terms, **vote), data.information)
        rng = np.random.default_rng([config.training.seed, max(0, context.fold)])
        sample = np.sort(rng.permutation(np.unique(rows))[: options.proteins])
        collected: dict[int, list[Pairs]] = {}
        for _, block in row_blocks(sample, BLOCK_ROWS):
            features = pairs.of(data.features, block, data.folds)
            labels = data.labels[block].toarray() > 0
            for aspect in range(data.annotated.shape[1]):
                columns = np.flatnonzero(learnt & (data.aspects == aspect))
                known = data.annotated[block, aspect]
                if len(columns) and known.any():
                    chosen = _chosen(features[known][:, columns], labels[known][:, columns], options.background, rng)
                    collected.setdefault(aspect, []).append(chosen)
        models = {aspect: _trees(parts, options, context) for aspect, parts in sorted(collected.items())}
        return Gbdt(reference, data.terms, vote, information=data.information, learnt=learnt, models=models)


def _chosen(features: FloatArray, labels: npt.NDArray[np.bool_], background: float, rng: np.random.Generator) -> Pairs:
    """Pairs [n, FEATURES] with labels and weights: unsupported negatives are sampled, and weigh for those left out."""
    sure = labels | (features[..., HITS_HAVING] > 0)
    kept = sure | (rng.random(labels.shape) < background)
    weights = np.where(sure, 1.0, 1.0 / background).astype(np.float32)
    return features[kept], labels[kept], weights[kept]


def _trees(parts: list[Pairs], options: GbdtConfig, context: FitContext) -> bytes:
    """LightGBM's text of the fitted trees."""
    features, labels, weights = (np.concatenate([part[place] for part in parts]) for place in range(3))
    if options.library == "py_boost":
        seed = context.config.training.seed
        return fit_trees(features, labels, weights, options, names=FEATURES, seed=seed, device=context.device)
    import lightgbm  # noqa: PLC0415 - only runs that use it pay for it

    parameters: dict[str, Any] = {
        "objective": "binary",
        "learning_rate": options.learning_rate,
        "num_leaves": options.leaves,
        "min_data_in_leaf": options.min_pairs,
        "lambda_l2": options.l2,
        "num_threads": context.threads,
        "seed": context.config.training.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    dataset = lightgbm.Dataset(features, labels.astype(np.float32), weight=weights, feature_name=list(FEATURES))
    booster = lightgbm.train(parameters, dataset, num_boost_round=options.trees)
    return booster.model_to_string().encode()
