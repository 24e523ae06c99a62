"""What a run is trained on: dataset registry, term tables, weights and sampling by name.

Nothing here imports a numerical library: the command line reads the registry before it fixes the thread count.
"""

from __future__ import annotations

from services.train.data.datasets import DATASETS, dataset_defaults

__all__ = ["DATASETS", "dataset_defaults"]
