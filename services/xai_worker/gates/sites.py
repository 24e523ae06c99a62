"""Enrichment in known sites, under a null that keeps what a plain permutation would break.

Values of neighbouring residues are alike, and sites come in runs: shuffled positions would call almost
any smooth explanation significant. The null moves the whole explanation around the sequence instead.

Source: Ferkingstad et al. 2015, arXiv 1404.5970 (permutation nulls along a genome).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from services.xai_worker.explainers.base import FloatArray
from services.xai_worker.result import SitesGate

SHORT = 100  # residues; below, mirrored explanations join the null
MOST_SHIFTS = 1000  # evenly spaced beyond; a table of all shifts of the longest proteins would not fit in memory
P_LIMIT = 0.05


def site_enrichment(values: FloatArray, positions: Collection[int]) -> SitesGate:
    """Measure one explanation [residues] against known sites (1-based); "unknown" where there is none."""
    if not positions:
        return SitesGate(
            status="unknown", sites=0, average_precision=None, auroc=None, fold=None, p=None, shifts=0, passed=None
        )
    filled = np.where(np.isnan(values), -np.inf, values)
    is_site = np.zeros(len(filled), bool)
    is_site[[position - 1 for position in positions]] = True
    null = shifted_precisions(filled, is_site)
    own, others = float(null[0]), null[1:]
    count = int(is_site.sum())
    first = np.argsort(-filled, kind="stable")[:count]
    p = float((1 + (others >= own - 1e-12).sum()) / (1 + len(others)))
    return SitesGate(
        status="known",
        sites=count,
        average_precision=own,
        auroc=area_under_roc(filled, is_site),
        fold=float(is_site[first].mean() / is_site.mean()),
        p=p,
        shifts=len(others),
        passed=p < P_LIMIT,
    )


def shifted_precisions(values: FloatArray, is_site: npt.NDArray[np.bool_]) -> FloatArray:
    """Average precision of circular shifts, the unshifted one first; equal values are taken together."""
    length = len(values)
    shifts = np.unique(np.linspace(0, length, min(length, MOST_SHIFTS), endpoint=False).astype(np.int64))
    turned = (np.arange(length)[None, :] + shifts[:, None]) % length
    masks = is_site[turned]
    if length < SHORT:
        masks = np.concatenate([masks, is_site[::-1][turned]])
    order = np.argsort(-values, kind="stable")
    last_of_tie = np.append(np.diff(values[order]) != 0, True)
    recalled = masks[:, order].cumsum(axis=1)[:, last_of_tie]
    precision = recalled / (np.flatnonzero(last_of_tie) + 1)
    gained = np.diff(recalled, prepend=0, axis=1)
    result: FloatArray = (gained * precision).sum(axis=1) / is_site.sum()
    return result


def area_under_roc(values: FloatArray, is_site: npt.NDArray[np.bool_]) -> float | None:
    """Probability that a site ranks above another residue, ties counting half; None where every residue is a site."""
    positive = int(is_site.sum())
    negative = len(is_site) - positive
    if not positive or not negative:
        return None
    ranks = rankdata(values)
    return float((ranks[is_site].sum() - positive * (positive + 1) / 2) / (positive * negative))
