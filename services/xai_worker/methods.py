"""The names of all methods, and which of them a request takes that names none. Imports nothing heavy: `--help` stays quick.

A test holds the names to the registries: `explainers.EXPLAINERS`, `evidence.EVIDENCE`, `bench.SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

METHODS = (
    "occlusion",
    "integrated_gradients",
    "expected_gradients",
    "pooled_exact",
    "virtual_mutations",
    "exact_mutations",
    "stacker_parts",
    "shapley",
    "account",
    "knn_shares",
    "go_path",
    "counterfactual_modalities",
    "counterfactual_residues",
)
SECTIONS = ("planted", "randomisation", "sites", "modalities", "calibration", "speed", "regression")
TierName = Literal["fast", "default", "full"]


@dataclass(frozen=True, slots=True)
class Tier:
    """How much is computed.

    Attributes:
        methods: taken where the request names none.
        final: of the residue methods, those that also explain the final score; a request that names the
            model `final` gets all of its methods.
        orders: random orders of the faithfulness gate; 0 leaves the gate out.
        draws: changed proteins of the stability gate, by method.
        background: train proteins that stand in for an absent modality, and for expected gradients.
    """

    methods: tuple[str, ...]
    final: tuple[str, ...]
    orders: int
    draws: Mapping[str, int]
    background: int


TIERS: Mapping[TierName, Tier] = {
    "fast": Tier(("pooled_exact", "stacker_parts", "shapley", "go_path"), (), 0, {}, 8),
    "default": Tier(
        (
            "occlusion",
            "integrated_gradients",
            "stacker_parts",
            "shapley",
            "account",
            "knn_shares",
            "go_path",
            "counterfactual_modalities",
        ),
        ("occlusion",),
        100,
        {"occlusion": 1},
        32,
    ),
    "full": Tier(METHODS, METHODS, 100, {"occlusion": 10, "integrated_gradients": 10}, 64),
}
