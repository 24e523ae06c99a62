"""A trained model: load a bundle, score proteins; the same code path that made the run's own scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from shared.errors import DataError, IntegrityError, MissingInput
from shared.fasta import read_fasta
from shared.homology import search
from shared.models import bundle as layout
from shared.models.base import LOGIT_LIMIT, Level1Model
from shared.models.bundle import BundleFiles, find_bundle, read_npz, under
from shared.models.calibration import Calibration
from shared.models.features import Features, FloatArray, Hits
from shared.models.knn import Knn
from shared.models.members import MEMBERS
from shared.models.scoring import assemble_scores, term_columns, vote_all_terms
from shared.models.tfidf import Tfidf
from shared.nn.encoders import Encoder, load_encoder
from shared.nn.stacker import StackerEnsemble
from shared.nn.weights import as_arrays, read_model_file
from shared.ontology import Ontology

KnnCorrection = Literal["off", "low_conf_only", "all"]
BLOCK_PROTEINS = 2048


@dataclass(frozen=True, slots=True)
class Proteins:
    """What a caller knows of the proteins to score; `texts` and `taxa` may be left out.

    Raises:
        DataError: lists of different lengths.
    """

    ids: Sequence[str]
    sequences: Sequence[str]
    texts: Sequence[str] | None = None
    taxa: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name in ("sequences", "texts", "taxa"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.ids):
                raise DataError(f"{len(values)} {name} for {len(self.ids)} ids", where="proteins")


class TrainedModel:
    """Everything fitted, ready to score. Make one with `TrainedModel.load`.

    Attributes:
        level1: model name -> its fold members in fold order; a vote has one.
        stacker: all folds' stackers. calibration: beta per aspect.
        ontology: the GO graph; scores have its terms as columns.
        sha256: of the bundle's manifest, the model's identity; None for a bundle without one.
    """

    def __init__(
        self,
        files: BundleFiles,
        metadata: dict[str, Any],
        architecture: dict[str, Any],
        state: dict[str, Any],
        device: str,
    ) -> None:
        self.files, self.metadata, self.sha256, self.device = files, metadata, files.sha256, device
        self._architecture, self._state = architecture, state
        arrays = as_arrays({n: t for n, t in state.items() if n.startswith("level1/")})
        arrays |= read_npz(files.path(layout.MEMBERS_FILE))
        self._arrays = arrays
        self.level1 = {name: restore_members(name, record, arrays) for name, record in architecture["level1"].items()}
        self.stacker = StackerEnsemble.restore(architecture["stacker"], under(state, "stacker/"), device)
        self.calibration = Calibration.from_json(metadata)
        self.ontology = Ontology.from_json(files.json(layout.ONTOLOGY))
        self.terms = self.stacker.layout.terms

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Self:
        """Load a bundle from a manifest, a `.pth` with a manifest beside it, or the older file names, in that order.

        Raises:
            MissingInput: a file is not there.
            IntegrityError: a hash, a version or a tensor is not what it should be.
            NotPermitted: a pickle, or a path that leaves the bundle.
        """
        files = find_bundle(Path(path))
        metadata = files.json(layout.METADATA)
        architecture, state = read_model_file(files.path(layout.MODEL))
        try:
            return cls(files, metadata, architecture, state, device)
        except KeyError as error:
            raise IntegrityError(f"the bundle lacks {error}", where=str(files.folder)) from error

    @cached_property
    def encoders(self) -> dict[str, Encoder]:
        """Sequence encoders by modality; loaded on first use."""
        return {
            name: load_encoder(record, self.device)
            for name, record in self.metadata["encoders"].items()
            if not record.get("absent")
        }

    @cached_property
    def tfidf(self) -> Tfidf:
        """The text vectoriser."""
        return Tfidf.from_json(self.metadata["features"]["text_vectorizer"])

    @cached_property
    def references(self) -> tuple[list[str], list[str]]:
        """Ids and sequences that the homology vote searches, in train row order."""
        records = list(read_fasta(self.files.path(layout.FASTA)))
        return [record.id for record in records], [record.sequence for record in records]

    def features(self, proteins: Proteins, threads: int = 1) -> Features:
        """Embed, vectorise and search; vectors pass through float16, the precision in which a run keeps them."""
        dims: Mapping[str, int] = self.metadata["features"]["dims"]
        dense: dict[str, npt.NDArray[np.floating]] = {
            name: np.zeros((len(proteins.ids), dim), np.float16) for name, dim in dims.items()
        }
        for name, encoder in self.encoders.items():
            dense[name] = encoder.embed(proteins.sequences).astype(np.float16)
        if proteins.texts is not None and dims.get("text"):
            dense["text"] = self.tfidf.transform(list(proteins.texts)).toarray().astype(np.float16)
        taxa = np.zeros(len(proteins.ids), np.int64) if proteins.taxa is None else np.asarray(proteins.taxa, np.int64)
        return Features(list(proteins.ids), list(proteins.sequences), dense, taxa, self.search(proteins, threads))

    def search(self, proteins: Proteins, threads: int = 1) -> Hits:
        """Homology hits among the reference sequences, with the run's own settings."""
        ids, sequences = self.references
        options = self.metadata["homology"]
        with TemporaryDirectory(prefix="gowhy-search-") as work:
            frame = search(
                list(zip(proteins.ids, proteins.sequences, strict=True)),
                list(zip(ids, sequences, strict=True)),
                sensitivity=options["sensitivity"],
                evalue=options["evalue"],
                max_hits=options["max_hits"],
                threads=threads,
                work=Path(work),
            )
        return Hits.from_frame(frame, len(proteins.ids))

    def level1_logits(self, features: Features) -> dict[str, npt.NDArray[np.float16]]:
        """Model -> logits [protein, level-1 term]: the mean over fold members, kept as a run keeps them."""
        rows = np.arange(len(features))
        result = {}
        for name, members in self.level1.items():
            kept = [
                np.clip(member.logits(features, rows), -LOGIT_LIMIT, LOGIT_LIMIT).astype(np.float16)
                for member in members
            ]
            mean = np.mean([values.astype(np.float32) for values in kept], axis=0, dtype=np.float32)
            result[name] = np.clip(mean, -LOGIT_LIMIT, LOGIT_LIMIT).astype(np.float16)
        return result

    def stacker_logits(
        self, features: Features, goa: Mapping[str, sparse.csr_array] | None = None
    ) -> npt.NDArray[np.float16]:
        """Logits [protein, stacker term] as a run keeps them; `goa` as in `StackerEnsemble.logits`."""
        return self.stacker.logits(self.level1_logits(features), goa).astype(np.float16)

    def predict(
        self, proteins: Proteins, knn_correction: KnnCorrection = "off", reference: Path | None = None, threads: int = 1
    ) -> sparse.csr_array:
        """Scores in (0, 1], float32 CSR [protein, ontology term], consistent over the GO graph.

        Args:
            proteins: what is known of them.
            knn_correction: blend with labelled neighbours never, where the model is unsure, or always.
            reference: a KNN reference outside the bundle, whose hash the caller has checked.
            threads: for the homology search.

        Raises:
            MissingInput: the correction needs a reference that is not there.
        """
        neighbours = None if knn_correction == "off" else self.knn_reference(reference)
        blocks = []
        for start in range(0, len(proteins.ids), BLOCK_PROTEINS):
            part = _slice(proteins, slice(start, start + BLOCK_PROTEINS))
            features = self.features(part, threads)
            blocks.append(self.score(features, self.stacker_logits(features), knn_correction, neighbours))
        if not blocks:
            return sparse.csr_array((0, len(self.ontology.terms)), dtype=np.float32)
        return sparse.csr_array(sparse.vstack(blocks, format="csr"))

    def score(
        self,
        features: Features,
        logits: npt.NDArray[np.floating],
        knn_correction: KnnCorrection,
        neighbours: Knn | None,
    ) -> sparse.csr_array:
        """From stacker logits to final scores: correction, rare terms, calibration, propagation."""
        corrected = np.asarray(logits, np.float32)
        if neighbours is not None:
            corrected = self._corrected(features, corrected, neighbours, everywhere=knn_correction == "all")
        rare = self.rare_scores(features)
        return assemble_scores(
            corrected,
            self.terms,
            self.metadata["calibration"],
            self.ontology,
            rare,
            descendant_share=descendant_share(self.metadata),
        )

    def rare_scores(self, features: Features) -> sparse.csr_array | None:
        """The homology vote over all terms, for those outside the stacker's; None where the run did without."""
        options = self.metadata["submission"]
        if options["rare_terms"] == "none" or features.hits is None:
            return None
        vote = self.metadata["homology_vote"]
        outside = np.ones(len(self.ontology), bool)
        outside[term_columns(self.terms, self.ontology)] = False
        return vote_all_terms(
            features.hits,
            self._rare_labels,
            self._arrays["rare/fit"],
            np.arange(len(features)),
            self.ontology,
            columns=outside,
            confidence=options["rare_confidence"],
            identity_power=vote["identity_power"],
            prior_weight=vote["prior_weight"],
        )

    @cached_property
    def _rare_labels(self) -> sparse.csr_array:
        indptr, indices = self._arrays["rare/indptr"], self._arrays["rare/indices"]
        shape = (len(indptr) - 1, len(self.ontology.terms))
        return sparse.csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=shape)

    def knn_reference(self, path: Path | None = None) -> Knn:
        """The labelled neighbours, from the bundle or from a file outside it.

        Raises:
            MissingInput: an external reference is not there; its name is in the message.
        """
        if path is not None:
            arrays = read_npz(path)
        elif self.metadata["reference_storage"] == "full":
            arrays = as_arrays(under(self._state, "reference/"))
        else:
            name = self.metadata["reference_path"]
            if not (self.files.folder / name).is_file():
                raise MissingInput(
                    f"the KNN reference {name} is not in the bundle",
                    where=str(self.files.folder),
                    remedy="Copy it there, give --reference PATH, or use --knn-correction off",
                )
            arrays = read_npz(self.files.path(name))
        return Knn.restore(self._architecture["reference"], arrays)

    def _corrected(self, features: Features, logits: FloatArray, neighbours: Knn, *, everywhere: bool) -> FloatArray:
        """P <- (1 - lambda) p + lambda * vote, on calibrated scores, and back to the stacker's logit scale."""
        aspects = np.asarray(self.stacker.layout.aspects, dtype=np.str_)
        scores = self.calibration.probabilities(logits, aspects).astype(np.float64)
        unsure = self.calibration.low_confidence(
            scores.astype(np.float32), aspects, np.asarray(self.terms, dtype=np.str_), frozenset(self.metadata["roots"])
        )
        votes = 1.0 / (1.0 + np.exp(-neighbours.logits(features, np.arange(len(features))).astype(np.float64)))
        weight = float(self.metadata["knn_lambda"])
        result = logits.copy()
        for aspect, beta in self.calibration.beta.items():
            columns = np.flatnonzero(aspects == aspect)
            rows = (
                np.arange(len(logits))
                if everywhere
                else np.flatnonzero(unsure.get(aspect, np.zeros(len(logits), bool)))
            )
            if not len(rows) or not len(columns):
                continue
            place = np.ix_(rows, columns)
            blended = np.clip((1 - weight) * scores[place] + weight * votes[place], 1e-6, 1 - 1e-6)
            result[place] = beta.uncalibrated(np.log(blended / (1 - blended))).astype(np.float32)
        return result


def restore_members(name: str, record: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> list[Level1Model]:
    """A level-1 model's fold members, in fold order.

    Raises:
        IntegrityError: an unknown kind, or arrays that do not fit.
    """
    if record["kind"] not in MEMBERS:
        raise IntegrityError(
            f"unknown kind {record['kind']!r} of {name}; known: {', '.join(MEMBERS)}", where=layout.MODEL
        )
    parts = sorted(record["parts"], key=lambda part: (not part.isdigit(), int(part) if part.isdigit() else 0))
    try:
        return [
            MEMBERS[record["kind"]].restore(record["parts"][part], under(arrays, f"level1/{name}/{part}/"))
            for part in parts
        ]
    except (KeyError, RuntimeError, ValueError) as error:
        raise IntegrityError(f"{name} cannot be rebuilt: {error}", where=layout.MODEL) from error


def descendant_share(metadata: Mapping[str, Any]) -> float:
    """How the bundle's scores are made consistent: see `propagate_blend`. Bundles that do not say took the maximum."""
    return float(metadata["submission"].get("descendant_share", 1.0))


def check_reference(path: Path, sha256: str | None) -> None:
    """Hold a reference outside the bundle to the hash that the caller named.

    Raises:
        MissingInput: no such file. IntegrityError: another hash, or none was named.
    """
    if not path.is_file():
        raise MissingInput(f"no reference {path}", where="--reference")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 is None or found != sha256.lower():
        raise IntegrityError(
            f"{path}: found sha256 {found}, expected {sha256}",
            where="--reference",
            remedy="Give the right --reference-sha256",
        )


def _slice(proteins: Proteins, part: slice) -> Proteins:
    return Proteins(
        proteins.ids[part],
        proteins.sequences[part],
        None if proteins.texts is None else proteins.texts[part],
        None if proteins.taxa is None else proteins.taxa[part],
    )
