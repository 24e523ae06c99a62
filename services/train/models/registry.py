"""The level-1 models by the name that `level1.models` uses."""

from __future__ import annotations

from services.train.models.base import Fitter
from services.train.models.cnn import CnnFitter
from services.train.models.gbdt import GbdtFitter
from services.train.models.homology import HomologyFitter
from services.train.models.knn import KnnFitter
from services.train.models.logreg import ConditionalLogregFitter, LogregFitter, TextFitter
from services.train.models.mlp import ConditionalMlpFitter, MlpFitter
from services.train.models.taxon import TaxonFitter

MODELS: dict[str, Fitter] = {
    fitter.name: fitter
    for fitter in (
        HomologyFitter(),
        TaxonFitter(),
        GbdtFitter(),
        KnnFitter(),
        LogregFitter(),
        ConditionalLogregFitter(),
        TextFitter(),
        MlpFitter(),
        ConditionalMlpFitter(),
        CnnFitter(),
    )
}
