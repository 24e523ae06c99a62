from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.config.embed import EncoderConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": "random-init"}, "is not random-init"),
        ({"weights": "random-init(-1)"}, "is not random-init"),
        ({"weights": ""}, "at least 1 character"),
        ({"window": 100, "overlap": 100}, "smaller than window"),
        ({"sha256": "abc"}, "pattern"),
    ],
)
def test_what_cannot_be_meant_is_refused(values, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EncoderConfig(name="esm2_tiny", **values)
