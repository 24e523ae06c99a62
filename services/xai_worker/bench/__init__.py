"""The benchmark of a model release's explanations: `python -m services.xai_worker bench`, `make xai-bench`.

To add a section: a file here, a line below.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.xai_worker.bench import calibration, modalities, planted, randomisation, regression, sites, speed
from services.xai_worker.bench.base import Check, Material, Measure, Release, Section

SECTIONS: Mapping[str, Measure] = {
    "planted": planted.measure,
    "randomisation": randomisation.measure,
    "sites": sites.measure,
    "modalities": modalities.measure,
    "calibration": calibration.measure,
    "speed": speed.measure,
    "regression": regression.measure,
}

__all__ = ["SECTIONS", "Check", "Material", "Measure", "Release", "Section"]
