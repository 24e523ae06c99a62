"""Stage 5: one ProtT5 vector per protein."""

from __future__ import annotations

from services.train.embedding import embed_modality
from services.train.stage import Stage, StageContext, always
from shared.config import EmbedConfig


def run(ctx: StageContext) -> None:
    """Embed the train and test proteins."""
    embed_modality(ctx, "t5", ctx.settings(EmbedConfig).t5)


STAGE = Stage(
    id="stage_05_embeddings_t5",
    version=1,
    run=run,
    inputs=always("parsed/train_seq.feather", "parsed/test_seq.feather"),
    outputs=always("features/train_embeds_t5.npy", "features/test_embeds_t5.npy", "features/encoder_t5.json"),
    sections=(EmbedConfig,),
)
