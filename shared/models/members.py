"""Every kind of fitted level-1 model, by the name that a bundle records."""

from __future__ import annotations

from shared.models.base import Level1Model
from shared.models.gbdt import Gbdt
from shared.models.homology_vote import HomologyVote
from shared.models.knn import Knn
from shared.models.logreg import Logreg
from shared.models.taxon_prior import TaxonPrior
from shared.nn.cnn import CnnModel
from shared.nn.heads import MlpModel

MEMBERS: dict[str, type[Level1Model]] = {
    member.kind: member for member in (HomologyVote, TaxonPrior, Gbdt, Knn, Logreg, MlpModel, CnnModel)
}
MEMBERS["text"] = Logreg  # on the text alone
MEMBERS["logreg_conditional"] = Logreg
MEMBERS["mlp_conditional"] = MlpModel
