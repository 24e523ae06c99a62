"""Learn GO terms of proteins: nine resumable stages and a manifest."""
