from __future__ import annotations

import numpy as np
from scipy import sparse

from shared.models.base import LOGIT_LIMIT
from shared.models.reference import Reference


def test_a_share_that_rounding_brought_above_one_has_the_highest_logit() -> None:
    one = np.zeros(1, np.int64)
    labels = sparse.csr_array(np.ones((1, 1), np.float32))
    reference = Reference(one, labels, np.ones((1, 3), bool), one.astype(np.int8), np.ones(1, np.float32), one)
    nobody = sparse.csr_array((1, 1), dtype=np.float32)
    above = np.nextafter(np.ones((1, 1), np.float32), np.float32(2))
    assert reference.vote(nobody, above).item() == np.float32(LOGIT_LIMIT)
