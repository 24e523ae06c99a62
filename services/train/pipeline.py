"""The stages, in order. Adding one is one new file and one new line here."""

from __future__ import annotations

from services.train.stage import Stage
from services.train.stages import (
    stage_01_parsed,
    stage_02_external_text,
    stage_03_tfidf_text,
    stage_04_external_goa_priors,
    stage_05_embeddings_t5,
    stage_06_embeddings_esm2,
    stage_07_level1_preds,
    stage_08_stacker,
    stage_09_submission,
)

PIPELINE: tuple[Stage, ...] = (
    stage_01_parsed.STAGE,
    stage_02_external_text.STAGE,
    stage_03_tfidf_text.STAGE,
    stage_04_external_goa_priors.STAGE,
    stage_05_embeddings_t5.STAGE,
    stage_06_embeddings_esm2.STAGE,
    stage_07_level1_preds.STAGE,
    stage_08_stacker.STAGE,
    stage_09_submission.STAGE,
)
