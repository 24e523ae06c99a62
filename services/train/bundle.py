"""Write the model bundle of a run: everything that predict and the worker need, in files beside the manifest."""

from __future__ import annotations

import gzip
import io
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from services.train.models.base import TrainingData
from services.train.models.inputs import (
    TRAINING_ARTEFACTS,
    feature_artefacts,
    load_labels,
    load_splits,
    load_training_data,
)
from services.train.models.reference import make_reference
from services.train.models.saved import mapped_array, read_torch, record_path, weights_path
from services.train.stage import StageContext
from shared.artefacts import NPZ, StoredArray, stored_arrays
from shared.config import BundleConfig, Config, HomologyConfig, Level1Config, SubmissionConfig, TransformConfig
from shared.digests import sha256_file
from shared.env import relevant_versions
from shared.models import bundle as layout
from shared.models.feature_space import FeatureSpace
from shared.models.features import IntArray
from shared.models.knn import Knn
from shared.models.members import MEMBERS
from shared.nn.transforms import row_blocks
from shared.ontology import ASPECTS

BUNDLE_SECTIONS = (BundleConfig, TransformConfig, Level1Config, HomologyConfig)
STACKER_RECORD, STACKER_WEIGHTS = "models/stacker.json", "models/stacker.pth"
ENCODERS = ("t5", "esm2")
NO_TAXA = np.iinfo(np.int64).max  # a neighbour is near by its vectors


def bundle_inputs(config: Config) -> tuple[str, ...]:
    """Artefacts that the bundle is made from, beside the train features."""
    models = dict.fromkeys(config.level1.models)
    return (
        *(path for name in models for path in (weights_path(name), record_path(name))),
        STACKER_RECORD,
        STACKER_WEIGHTS,
        "features/level1_terms.json",
        "features/text_vectorizer.json",
        *(f"features/encoder_{name}.json" for name in ENCODERS),
        "parsed/dataset_manifest.json",
        *feature_artefacts("train"),
        *TRAINING_ARTEFACTS,
    )


def bundle_outputs(config: Config) -> tuple[str, ...]:
    """The bundle's files; the reference is one of them unless it is embedded."""
    reference = () if config.bundle.reference_storage == "full" else (reference_name(config.bundle),)
    return (
        layout.MODEL,
        layout.METADATA,
        layout.MEMBERS_FILE,
        layout.ONTOLOGY,
        layout.FASTA,
        *reference,
        layout.MANIFEST,
    )


def reference_name(config: BundleConfig) -> str:
    """File name of an external KNN reference."""
    return layout.REFERENCE_GZIP if config.reference_gzip else layout.REFERENCE


@dataclass(frozen=True, slots=True)
class Members:
    """Level-1 models as stored: what goes into model.pth and what into model_members.npz."""

    architecture: dict[str, Any]
    tensors: dict[str, npt.NDArray[Any]]
    arrays: dict[str, StoredArray]


def write_bundle(ctx: StageContext) -> None:
    """Write every file of the bundle; the manifest, which hashes the others, last."""
    config = ctx.settings(BundleConfig)
    stacker = ctx.read(STACKER_RECORD)
    data = load_training_data(ctx.read, stacker["terms"])
    splits = load_splits(ctx.read, data.features.ids)
    members = read_members(ctx)
    reference = make_knn_reference(data, splits.fit_rows, ctx.settings(TransformConfig), config, ctx.work)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in members.tensors.items()}
    tensors |= {
        f"stacker/{name}": tensor for name, tensor in torch.load(ctx.read(STACKER_WEIGHTS), weights_only=True).items()
    }
    if config.reference_storage == "full":
        tensors |= {
            f"reference/{name}": torch.from_numpy(np.ascontiguousarray(a))
            for name, a in numeric(reference.arrays()).items()
        }
    else:
        write_reference(ctx.output(reference_name(config)), reference)
    architecture = {"level1": members.architecture, "stacker": stacker, "reference": reference.architecture()}
    with ctx.output(layout.MODEL).open("wb") as file:
        torch.save({"architecture": architecture, "state": dict(sorted(tensors.items()))}, file)
    ctx.write(layout.MEMBERS_FILE, {**members.arrays, **rare_labels(ctx, data, splits.fit_rows)})
    ctx.write(layout.ONTOLOGY, ctx.read("parsed/ontology.json"))
    write_fasta(ctx.output(layout.FASTA), data)
    ctx.write(layout.METADATA, metadata(ctx, data, splits.fit_rows, stacker))
    names = sorted(path for path in ctx.output_paths if path.startswith("model_") or path == layout.MODEL)
    paths = {name: ctx.output(name) for name in names if name != layout.MANIFEST}
    files = {name: {"sha256": sha256_file(path), "size": path.stat().st_size} for name, path in paths.items()}
    ctx.write(layout.MANIFEST, manifest(files, config, stacker, ctx))


def read_members(ctx: StageContext) -> Members:
    """Collect every level-1 model's parts under `level1/<model>/<part>/<array>`."""
    architecture: dict[str, Any] = {}
    tensors: dict[str, npt.NDArray[Any]] = {}
    arrays: dict[str, StoredArray] = {}
    for name in dict.fromkeys(ctx.settings(Level1Config).models):
        record = ctx.read(record_path(name))
        parts = {part: description["architecture"] for part, description in record["parts"].items()}
        architecture[name] = {"kind": record["kind"], "votes": record["votes"], "parts": parts}
        stored = ctx.input(weights_path(name))
        is_torch = MEMBERS[record["kind"]].is_torch
        if is_torch:
            tensors |= {f"level1/{name}/{key}": array for key, array in read_torch(stored).items()}
        else:
            arrays |= {f"level1/{name}/{key}": array for key, array in stored_arrays(stored).items()}
    return Members(architecture, tensors, arrays)


def make_knn_reference(
    data: TrainingData, rows: IntArray, transform: TransformConfig, config: BundleConfig, work: Path
) -> Knn:
    """The neighbours that `--knn-correction` asks: fit proteins, with their labels of the stacker's terms.

    Their vectors are in a file in `work`.
    """
    reference = make_reference(data, rows)
    space = FeatureSpace.fit(
        data.features,
        reference.rows,
        version=transform.version,
        normalize=transform.normalize,
        min_taxon_proteins=NO_TAXA,
    )
    embeddings = mapped_array(work / "reference.npy", (len(reference.rows), space.width), np.float16)
    for place, block in row_blocks(reference.rows):
        embeddings[place] = Knn.embed(space, data.features, block)
    return Knn(
        reference, embeddings, space, data.terms, neighbours=config.knn_neighbours, temperature=config.knn_temperature
    )


def numeric(arrays: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Arrays that torch can hold."""
    return {name: array for name, array in arrays.items() if array.dtype.kind in "biuf"}


def write_reference(path: Path, reference: Knn) -> None:
    """Write the KNN reference; gzip without a timestamp when the name says so."""
    if path.suffix != ".gz":
        NPZ.write(path, reference.arrays())
        return
    buffer = io.BytesIO()
    arrays = reference.arrays()
    np.savez(buffer, **{name: arrays[name] for name in sorted(arrays)})  # type: ignore[arg-type]
    path.write_bytes(gzip.compress(buffer.getvalue(), mtime=0))


def rare_labels(ctx: StageContext, data: TrainingData, rows: IntArray) -> dict[str, npt.NDArray[Any]]:
    """Labels of the fit proteins over the whole ontology, [train protein, ontology term]: the rare terms' vote."""
    fit = np.zeros(len(data.features), bool)
    fit[rows] = True
    labels = load_labels(ctx.read("parsed/train_terms.parquet"), data.features.ids, data.ontology.terms)
    counts = np.diff(labels.indptr)
    pointer = np.concatenate([[0], np.cumsum(np.where(fit, counts, 0))]).astype(np.int64)
    return {
        "rare/indptr": pointer,
        "rare/indices": labels.indices[np.repeat(fit, counts)].astype(np.int32),
        "rare/fit": fit,
    }


def write_fasta(path: Path, data: TrainingData) -> None:
    """All train sequences in row order: a hit's target row is then the train row, as in the pipeline."""
    with path.open("w", encoding="ascii") as file:
        for identifier, sequence in zip(data.features.ids, data.features.sequences, strict=True):
            file.write(f">{identifier}\n{sequence}\n")


def metadata(ctx: StageContext, data: TrainingData, rows: IntArray, stacker: dict[str, Any]) -> dict[str, Any]:
    """`model_metadata.json`: everything about the model that is not a weight."""
    config, counts = ctx.settings(BundleConfig), np.asarray(data.labels[rows].sum(axis=0)).ravel()
    return {
        "bundle_version": layout.BUNDLE_VERSION,
        "terms": {
            aspect: [t for t, of in zip(stacker["terms"], stacker["aspects"], strict=True) if of == aspect]
            for aspect in ASPECTS
        },
        "features": {
            "ids": "accession",
            "dims": {name: int(array.shape[1]) for name, array in data.features.dense.items()},
            "order": list(data.features.dense),
            "text_vectorizer": ctx.read("features/text_vectorizer.json"),
        },
        "encoders": {name: ctx.read(f"features/encoder_{name}.json") for name in ENCODERS},
        "level1_terms": ctx.read("features/level1_terms.json")["terms"],
        "targets": {
            "proteins": len(rows),
            "positives": dict(zip(stacker["terms"], counts.astype(int).tolist(), strict=True)),
        },
        "scaling": {
            **ctx.settings(TransformConfig).model_dump(mode="json"),
            "fitted_values": "mean.* and std.* arrays of each member",
        },
        "calibration": stacker["calibration"],
        "low_conf_threshold": stacker["low_conf_threshold"],
        "roots": stacker["roots"],
        "homology": ctx.settings(HomologyConfig).model_dump(mode="json"),
        "homology_vote": ctx.settings(Level1Config).homology.model_dump(mode="json"),
        "submission": ctx.settings(SubmissionConfig).model_dump(mode="json"),
        "dataset": ctx.read("parsed/dataset_manifest.json"),
        "reference_storage": config.reference_storage,
        "reference_path": None if config.reference_storage == "full" else reference_name(config),
        "knn_lambda": config.knn_lambda,
        "train_config": {name: section.model_dump(mode="json") for name, section in sorted(ctx.sections.items())},
        "runtime": {"python": platform.python_version(), "threads": ctx.threads, "versions": relevant_versions()},
    }


def manifest(files: dict[str, Any], config: BundleConfig, stacker: dict[str, Any], ctx: StageContext) -> dict[str, Any]:
    """`model_manifest.json`."""
    external = config.reference_storage == "external"
    reference = reference_name(config) if external else None
    return {
        "bundle_version": layout.BUNDLE_VERSION,
        "files": files,
        "model_path": layout.MODEL,
        "metadata_path": layout.METADATA,
        "reference_path": reference,
        "reference_storage": config.reference_storage,
        "checksums": {
            "model_path": files[layout.MODEL]["sha256"],
            "metadata_path": files[layout.METADATA]["sha256"],
            "reference_path": files[reference]["sha256"] if reference else None,
        },
        "input_transform": ctx.settings(TransformConfig).model_dump(mode="json"),
        "terms": len(stacker["terms"]),
        "aspects": sorted(set(stacker["aspects"])),
        "encoders": {name: ctx.read(f"features/encoder_{name}.json").get("weights") for name in ENCODERS},
    }
