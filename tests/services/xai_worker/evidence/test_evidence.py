from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.xai_worker.evidence import EVIDENCE, Context
from services.xai_worker.evidence.alignment import align, aligned_positions
from services.xai_worker.job import Job
from services.xai_worker.request import ExplainRequest
from services.xai_worker.result import EXPLANATION, json_line
from services.xai_worker.stored import StoredRun
from services.xai_worker.whole import WholePath
from shared.errors import MissingInput
from shared.logs import Logger
from tests.fakes.explained_run import ExplainedRun


def found(fake_run: ExplainedRun, *methods: str, proteins: Sequence[str] = ("T1",), **asked: Any) -> list[Any]:
    sites = asked.pop("sites", None)
    request = ExplainRequest(**{"proteins": proteins, "terms": tuple(fake_run.terms[:4]), "methods": methods, **asked})
    job = Job(StoredRun(fake_run.folder), fake_run.bundle, request, Logger(None, quiet=True))
    job.choose(sites)
    return [document for target in job.targets for document in job.explain(target).documents]


@pytest.mark.parametrize("method", list(EVIDENCE))
@pytest.mark.parametrize("protein", ["T2", "P3", "P5"])
def test_every_kind_says_the_same_twice_and_survives_writing(fake_run: ExplainedRun, method: str, protein: str) -> None:
    first, second = (found(fake_run, method, proteins=(protein,)) for _ in range(2))
    assert {item.method for item in first} == {method}
    assert {item.term for item in first} == set(fake_run.terms[:4])
    for one, other in zip(first, second, strict=True):
        assert json_line(one) == json_line(other)
        assert EXPLANATION.validate_json(json_line(one)) == one
        assert one.gates.parity.difference <= one.gates.parity.tolerance


def test_shapley_shares_are_efficient_and_the_whole_coalition_is_the_stored_score(fake_run: ExplainedRun) -> None:
    for item in found(fake_run, "shapley", proteins=("T1", "P2")):
        assert [share.modality for share in item.shares] == ["esm2", "t5", "text", "taxon", "cnn", "goa"]
        assert item.efficiency_residual <= 1e-5
        total = sum(share.value for share in item.shares)
        assert total == pytest.approx(item.score.logit - item.score.reference, abs=1e-4)
        assert item.score.logit == pytest.approx(item.gates.parity.stored, abs=0.02)
        assert all(share.low <= share.value <= share.high for share in item.shares)
        assert item.coalitions == 64


def test_a_coalition_is_the_model_on_a_mixed_protein(fake_run: ExplainedRun) -> None:
    """Taxon, text and CNN of the protein, the rest of a background protein: computed again by hand."""
    run = StoredRun(fake_run.folder)
    request = ExplainRequest(proteins=("T1",), terms=tuple(fake_run.terms[:2]), methods=("shapley",))
    job = Job(run, fake_run.bundle, request, Logger(None, quiet=True))
    job.choose(None)
    (planned,) = [p for p in job.plan(job.targets[0]) if isinstance(p.path, WholePath)]
    path, other = planned.path, job.background[1]
    context = Context(run, fake_run.bundle, job.targets[0], path.known, {"MF": path}, {}, job.background)
    value = context.game.values[path.terms[0]][context.game.coalition(["taxon", "text", "cnn"]), 1]
    known, heads = path.known, fake_run.bundle.level1["mlp"]
    dense = {**other.features.dense, "text": known.features.dense["text"]}
    mixed = type(known.features)(["x"], ["M"], dense, known.features.taxa, None)
    mlp = np.mean([head.logits(mixed, np.zeros(1, np.int64)) for head in heads], axis=0)
    channels = fake_run.bundle.stacker.channel_inputs("MF", {"mlp": mlp, "cnn": known.level1["cnn"]}, other.goa)
    with torch.inference_mode():
        wanted = fake_run.bundle.stacker.forward("MF", channels)[0, path.columns[0]].item()
    assert value == pytest.approx(wanted, abs=1e-3)


def test_the_account_adds_up_and_shows_its_remainder(fake_run: ExplainedRun) -> None:
    for item in found(fake_run, "account", proteins=("T1", "T3")):
        parts = {part.source: part.value for part in item.parts}
        assert set(parts) == {
            "residues:cnn", "residues:esm2", "residues:t5", "words", "taxon", "goa:IEA",
        }  # fmt: skip
        whole = item.score.logit - item.score.reference
        assert sum(parts.values()) + item.remainder == pytest.approx(whole, abs=1e-5)
        assert abs(item.remainder) <= 0.011 * max(abs(whole), 1e-3)
        residues = sum(value for name, value in parts.items() if name.startswith("residues"))
        assert sum(item.residues) == pytest.approx(residues, abs=1e-4)
        words = sum(word.value for word in item.words) + item.other_words
        assert words == pytest.approx(parts["words"], abs=1e-5)
        assert item.gates.completeness.converged


def test_neighbours_share_out_the_whole_vote(fake_run: ExplainedRun) -> None:
    knn = fake_run.bundle.knn_reference()
    for item in found(fake_run, "knn_shares", proteins=("T2",)):
        assert sum(n.share for n in item.neighbours) == pytest.approx(item.vote, abs=1e-5)
        assert item.corrected == pytest.approx(0.5 * item.own_probability + 0.5 * item.vote, abs=1e-5)
        assert all(n.share == 0 for n in item.neighbours if not n.has_term)
        run = StoredRun(fake_run.folder)
        logit = knn.logits(run.features(run.places["T2"]), np.zeros(1, np.int64))[0, knn.terms.index(item.term)]
        assert item.vote == pytest.approx(1 / (1 + np.exp(-float(logit))), abs=1e-3)


def test_a_train_protein_is_not_its_own_neighbour_nor_its_folds(fake_run: ExplainedRun) -> None:
    for item in found(fake_run, "knn_shares", proteins=("P2",)):
        assert {n.protein for n in item.neighbours} <= {"P1", "P3"}  # P0, P2 and P4 are in its fold


def test_known_sites_of_a_neighbour_are_carried_over_the_alignment() -> None:
    sequence = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVVHSLAKWKRQTLGQHDFSAGEGLYTHMKALRPDEDRLSPLHSVYVDQWDWE"
    changed = sequence[:30] + sequence[33:]
    (alignment,) = align(changed, [sequence])
    assert alignment is not None
    assert alignment.identity > 0.9
    places = aligned_positions(alignment)
    assert places[10] == 10
    assert places[60] == 57
    assert all(changed[q - 1] == sequence[n - 1] for n, q in places.items() if n < 25 or n > 40)
    assert align(sequence, ["W" * 60]) == [None]


def test_carried_sites_stand_with_the_neighbour(fake_run: ExplainedRun, tmp_path: Path) -> None:
    run = ExplainedRun(tmp_path / "run", residues=60)
    ids, sequences = run.bundle.references
    own = run.parts["test"].sequences[0]
    run.bundle.references = (ids, [own if i == "P1" else s for i, s in zip(ids, sequences, strict=True)])
    sites = {("P1", run.terms[0]): frozenset({5, 40})}
    items = found(run, "knn_shares", proteins=("T1",), terms=(run.terms[0], run.terms[1]), sites=sites)
    carried = {item.term: {n.protein: n.sites for n in item.neighbours if n.sites} for item in items}
    (site, other) = carried[run.terms[0]]["P1"]
    assert (site.neighbour_position, site.position, site.residue) == (5, 5, own[4])
    assert other.position == 40
    assert carried[run.terms[1]] == {}


def test_the_path_ends_at_the_descendant_that_gave_the_probability(fake_run: ExplainedRun) -> None:
    ontology = fake_run.ontology
    for item in found(fake_run, "go_path", proteins=("T1", "T2", "T3")):
        own = {node.term: node.own for node in item.nodes}
        final = {node.term: node.probability for node in item.nodes}
        assert item.path[0] == item.term
        assert final[item.term] == pytest.approx(own[item.path[-1]])
        for parent, child in zip(item.path, item.path[1:], strict=False):
            assert ontology.index[parent] in ontology.parents[ontology.index[child]]
            assert (child, parent) in item.edges
        for violation in item.violations:
            assert violation.gap == pytest.approx(own[violation.child] - own[violation.parent], abs=1e-5)
            assert violation.gap > 0


def test_a_blended_probability_names_the_lowest_ancestor_too(tmp_path: Path) -> None:
    run = ExplainedRun(tmp_path / "run")
    run.bundle.metadata["submission"]["descendant_share"] = 0.6
    asked = found(run, "go_path", proteins=("T1", "T2", "T3"))
    assert asked
    for item in asked:
        own = {node.term: node.own for node in item.nodes}
        final = {node.term: node.probability for node in item.nodes}
        above = {run.ontology.terms[i] for i in run.ontology.ancestors(run.ontology.index[item.term])}
        assert item.lowest in above
        assert own[item.lowest] == min(own[term] for term in above if own[term] > 0)
        assert final[item.term] == pytest.approx(0.6 * own[item.path[-1]] + 0.4 * own[item.lowest], rel=1e-4)


def test_a_counterfactual_of_modalities_is_smallest(fake_run: ExplainedRun) -> None:
    asked = found(fake_run, "counterfactual_modalities", "shapley", threshold=0.4)
    for item in (i for i in asked if i.kind == "counterfactual"):
        if item.own_probability < 0.4:
            assert not item.found
            continue
        assert item.search == "exhaustive"
        if item.found:
            assert item.after < 0.4
            assert item.removed[-1].probability == item.after
            assert all(step.probability >= 0.4 for step in item.removed[:-1])


@pytest.mark.parametrize("threshold", [0.35, 0.2])
def test_a_counterfactual_of_residues_is_irreducible(fake_run: ExplainedRun, threshold: float) -> None:
    run = StoredRun(fake_run.folder)
    items = found(fake_run, "counterfactual_residues", proteins=("T1", "T2"), threshold=threshold)
    for item in items:
        assert len(item.removed) <= item.budget
        if not item.found:
            continue
        assert item.after < threshold <= item.own_probability
        request = ExplainRequest(proteins=(item.protein,), terms=(item.term,), methods=("counterfactual_residues",))
        job = Job(run, fake_run.bundle, request, Logger(None, quiet=True))
        job.choose(None)
        (planned,) = [p for p in job.plan(job.targets[0]) if isinstance(p.path, WholePath)]
        chosen = [removed.position - 1 for removed in item.removed]
        fewer = [[i for i in chosen if i != given] for given in chosen]
        logits = planned.path.masked_logits([chosen, *fewer])[:, 0].numpy()
        beta = fake_run.bundle.calibration.beta[item.aspect]
        after, *others = beta.probabilities(logits).tolist()
        assert after < threshold
        assert all(probability >= threshold for probability in others)
    assert any(item.found for item in items) or threshold < 0.3


def test_a_bundle_without_its_knn_reference_leaves_the_neighbours_out_unless_they_are_asked_for(
    fake_run: ExplainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingInput("the KNN reference model_reference.npz is not in the bundle")

    monkeypatch.setattr(fake_run.bundle, "knn_reference", missing)
    methods = {item.method for item in found(fake_run, models=("final",))}
    assert "knn_shares" not in methods
    assert {"shapley", "account", "go_path"} <= methods
    with pytest.raises(MissingInput, match="model_reference"):
        found(fake_run, "knn_shares")


def test_a_model_that_reads_no_sequence_still_has_its_account(
    fake_run: ExplainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Votes alone: the stored scores of both models stand in for what would read residues."""
    monkeypatch.setattr(fake_run.bundle, "level1", {key: [object()] for key in ("mlp", "cnn")})
    items = found(fake_run, models=("final",))
    assert {item.kind for item in items} >= {"account", "modalities", "go_path"}
    assert all(item.kind != "residues" for item in items)
    for item in items:
        if item.kind == "account":
            assert {part.source for part in item.parts} == {"votes:mlp", "votes:cnn", "goa:IEA"}
            assert set(item.residues) == {None}
        if item.kind == "modalities":
            assert [share.modality for share in item.shares] == ["mlp", "cnn", "goa"]
