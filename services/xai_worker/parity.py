"""The gate before every explanation: is this the model that made the stored score?

An explanation of another model would look just as good. It happened elsewhere: published saliency maps
stopped matching when released weights changed, and nothing in the tool noticed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from services.xai_worker.result import EmbeddingParity, ScalarParity
from shared.errors import ParityError

SCORE_TOLERANCE = 0.01  # logits
EMBEDDING_TOLERANCE = 1e-3  # relative; a float16 copy of a vector is within 5e-4
BFLOAT16_TOLERANCE = 0.02  # between a vector made in bfloat16 and its float32 explanation; measured: 0.006
REMEDY = "Explain with the environment, device and weights of the run, or run the pipeline again"


def check_score(recomputed: float, stored: np.floating, *, what: str) -> ScalarParity:
    """Compare a recomputed logit with the stored one.

    Args:
        recomputed: mean over fold members, limited as stored scores are.
        stored: the number as it was stored; its type says how far it was rounded.
        what: names model, term and protein in the message.

    Raises:
        ParityError: they differ by more than 0.01 plus the stored number's own rounding.
    """
    rounding = float(np.spacing(np.abs(stored))) / 2
    tolerance = SCORE_TOLERANCE + rounding
    difference = abs(recomputed - float(stored))
    if not difference <= tolerance:
        raise ParityError(
            f"this explains a different model: the recomputed logit is {recomputed:.6g}, the stored one "
            f"{float(stored):.6g}; at most {tolerance:.3g} apart are accepted",
            where=what,
            remedy=REMEDY,
        )
    return ScalarParity(recomputed=recomputed, stored=float(stored), difference=difference, tolerance=tolerance)


def check_embedding(
    recomputed: npt.NDArray[np.floating],
    stored: npt.NDArray[np.floating],
    *,
    encoder: str,
    what: str,
    tolerance: float = EMBEDDING_TOLERANCE,
) -> EmbeddingParity:
    """Compare a recomputed pooled embedding [dimension] with the stored one.

    Raises:
        ParityError: ||recomputed - stored|| / ||stored|| is above the tolerance.
    """
    reference = stored.astype(np.float64)
    distance = float(np.linalg.norm(recomputed.astype(np.float64) - reference))
    length = float(np.linalg.norm(reference))
    error = distance / length if length > 0 else distance
    if not error <= tolerance:
        raise ParityError(
            f"this explains a different encoder: the recomputed {encoder} embedding is {error:.3g} of its length "
            f"({distance:.6g} of {length:.6g}) away from the stored one; at most {tolerance:.3g} is accepted",
            where=what,
            remedy=REMEDY,
        )
    return EmbeddingParity(encoder=encoder, relative_error=error, tolerance=tolerance)
