"""Text about proteins: where from, frozen when, and which lines would give the label away."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import Field

from shared.config.base import NOT_IN_FINGERPRINT, Section


class TextConfig(Section):
    """Stage 2. The network is used only with `fetch`.

    The text is in `data.text`: a UniProt flat file (.txt or .dat, also gzip), a folder of them, or a
    table of EntryID<tab>text. `drop_lines` says what is taken out because it states the label: `go` the
    GO cross-references and every GO id, `function` CC FUNCTION, `keywords` KW, `location` CC SUBCELLULAR
    LOCATION. A table has no line types: only the GO ids can be taken out of it.
    """

    fetch: bool = False
    frozen_at: datetime.date | None = Field(None, description="records that changed after this date are dropped")
    drop_lines: list[Literal["go", "function", "keywords", "location"]] = Field(["go"])
    url: str = Field("https://rest.uniprot.org", pattern=r"^https?://[^/]+(/.*)?$")
    batch_size: Annotated[int, NOT_IN_FINGERPRINT] = Field(80, ge=1, le=500, description="accessions per request")
    requests_per_second: Annotated[float, NOT_IN_FINGERPRINT] = Field(3.0, gt=0)


class TfidfConfig(Section):
    """Stage 3."""

    max_features: int = Field(5000, ge=1)
    ngram_max: int = Field(2, ge=1, le=3)
    min_df: int = Field(2, ge=1)
    max_df: float = Field(0.9, gt=0, le=1)
    sublinear_tf: bool = True
