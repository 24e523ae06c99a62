"""The worker: explains what a run predicted."""
