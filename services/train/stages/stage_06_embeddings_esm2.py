"""Stage 6: one ESM-2 vector per protein."""

from __future__ import annotations

from services.train.embedding import embed_modality
from services.train.stage import Stage, StageContext, always
from shared.config import EmbedConfig


def run(ctx: StageContext) -> None:
    """Embed the train and test proteins."""
    embed_modality(ctx, "esm2", ctx.settings(EmbedConfig).esm2)


STAGE = Stage(
    id="stage_06_embeddings_esm2",
    version=1,
    run=run,
    inputs=always("parsed/train_seq.feather", "parsed/test_seq.feather"),
    outputs=always("features/train_embeds_esm2.npy", "features/test_embeds_esm2.npy", "features/encoder_esm2.json"),
    sections=(EmbedConfig,),
)
