from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from services.xai_worker.bench import SECTIONS, calibration, modalities, planted, randomisation, sites
from services.xai_worker.bench.base import Check, Figure, Section, mean_interval
from services.xai_worker.bench.rankings import amino_acid_prior, by_prior, encoder_controls, gradients, random_order
from services.xai_worker.bench.regression import compare
from services.xai_worker.bench.report import verdict, write
from services.xai_worker.methods import SECTIONS as SECTION_NAMES
from services.xai_worker.paths import residue_path
from services.xai_worker.stored import StoredRun
from shared.config.embed import EncoderConfig
from shared.errors import IntegrityError, MissingInput, ParityError
from shared.nn.encoders import load_encoder
from tests.fakes.explained_run import ExplainedRun
from tests.fakes.paths import linear_path
from tests.services.xai_worker.test_explain import make


def test_the_sections_are_the_registered_ones() -> None:
    assert tuple(SECTIONS) == SECTION_NAMES


def test_the_last_line_names_what_was_missed_and_does_not_count_what_was_not_measured() -> None:
    passed, missed, unknown = Check("a", True, "1", "1"), Check("b", False, "2", "1"), Check("c", None, "", "")
    assert verdict([passed, unknown]) == (True, "PASS 1/1")
    assert verdict([passed, missed, unknown]) == (False, "FAIL 1/2: b")


def test_results_name_the_model_and_repeat_to_the_byte(tmp_path: Path) -> None:
    figure = Figure("f", "F", "x", "y", {"one": [("a", 1.0), ("b", 2.0)]}, kind="bars")
    section = Section(
        "Title", "Text.", [{"method": "m", "AP": 0.5, "low": float("nan")}], [Check("g", None, "-", "1")], [figure]
    )
    for name in ("one", "two"):
        write(tmp_path / name, "ab" * 32, {"s": section})
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["bench.json", "bench.md", "f.png", "f.svg"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    document = json.loads((tmp_path / "one" / "bench.json").read_bytes())
    assert document["model_sha256"] == "ab" * 32
    assert document["sections"]["s"]["rows"] == [{"method": "m", "AP": 0.5, "low": None}]
    assert "| m | 0.5 |" in (tmp_path / "one" / "bench.md").read_text()


def test_the_prior_is_the_log_odds_of_sites() -> None:
    prior = amino_acid_prior({"CCCCAAAAAAAA": frozenset({1, 2, 3, 4})})
    assert prior["C"] > 0 > prior["A"]
    assert prior["W"] == pytest.approx(np.log((1 / 24) / (1 / 28)))
    assert by_prior("CXA", prior).tolist() == [prior["C"], 0.0, prior["A"]]
    assert (random_order("ACD") == random_order("ACD")).all()


def test_encoder_controls_read_the_encoder_itself() -> None:
    """The loop that shows attention computes the same states as the encoder; attention of all queries sums to one each."""
    encoder = load_encoder(EncoderConfig(name="esm2_tiny"), "cpu")
    sequence = "MKTAYIAKQRQISFVKSH"
    found = encoder_controls(encoder, sequence)
    assert set(found) == {"attention", "plm_entropy"}
    layers = 4
    assert 0 < found["attention"].sum() < layers  # the special tokens receive the rest
    letters = encoder.network.table()[encoder.network.alphabet.encode("ACDEFGHIKLMNPQRSTVWY")]  # type: ignore[attr-defined]
    shares = (encoder.residues(sequence) @ letters.T).log_softmax(-1)
    np.testing.assert_allclose(found["plm_entropy"], (shares.exp() * shares).sum(-1).numpy(), atol=1e-4)
    assert encoder_controls(load_encoder(EncoderConfig(name="prott5_tiny"), "cpu"), sequence) == {}


def test_simple_gradients_are_those_of_the_function() -> None:
    path = linear_path(length=5)
    found = gradients(path)
    np.testing.assert_allclose(found["saliency"], path.weights.norm(dim=-1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(
        found["input_x_gradient"], (path.weights * path.embedded).sum(-1).numpy(), rtol=1e-4, atol=1e-6
    )


def test_shuffling_keeps_the_entries_and_the_original(fake_run: ExplainedRun) -> None:
    layer = nn.Linear(8, 8)
    before = layer.weight.detach().clone()
    randomisation.shuffle(layer, torch.Generator().manual_seed(0))
    assert not torch.equal(before, layer.weight)
    assert torch.equal(before.flatten().sort().values, layer.weight.detach().flatten().sort().values)
    run = StoredRun(fake_run.folder)
    path = residue_path(fake_run.bundle, run, "mlp/esm2", run.places["T1"], fake_run.terms[:1])
    whole = path.logits(path.inputs())
    stages = list(randomisation.cascade(path, randomisation.CASCADES["mlp/esm2"], 0))
    assert [name for name, _ in stages] == ["heads", "trunk", "inputs", "encoder"]
    scores = [changed.logits(changed.inputs()).item() for _, changed in stages]
    assert len({round(score, 5) for score in [whole.item(), *scores]}) == 5
    assert torch.equal(path.logits(path.inputs()), whole)


def test_a_modality_that_carries_the_label_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modalities, "EXPLAINED", 8)
    phi, accuracy = modalities.explained("text", 0)
    share = np.abs(phi[modalities.PLAYERS.index("text")]).sum() / np.abs(phi).sum()
    assert accuracy > 0.8
    assert share > 0.8


def test_a_level_that_is_exceeded_is_missed_and_one_that_is_kept_is_not() -> None:
    assert calibration._level("g", [True] * 1 + [False] * 199, 0.01).passed
    assert not calibration._level("g", [True] * 12 + [False] * 188, 0.01).passed
    # Forty explanations of one protein share its hundred orders: ten passes of one are likelier than of forty.
    assert calibration.shared_level("g", [True] * 4 + [False] * 116, 3).passed
    assert not calibration.shared_level("g", [True] * 40 + [False] * 560, 15).passed


def test_paired_statistics_draw_whole_clusters() -> None:
    values, clusters = np.array([1.0] * 50 + [0.0]), np.array([0] * 50 + [1])
    mean, low, high = sites.clustered(values, clusters)
    assert mean == pytest.approx(50 / 51)
    assert (low, high) == (0.0, 1.0)  # two clusters only: one of them alone is likely
    assert mean_interval(values)[1] > 0.8


def test_a_method_that_does_not_beat_the_prior_is_said_so() -> None:
    common = {"class": "metal", "model": "cnn", "against": "amino_acid_prior"}
    rows = [
        {**common, "method": "worse", "AP": -0.01, "low": -0.03, "high": 0.01, "p": 0.6},
        {**common, "method": "better", "AP": 0.1, "low": 0.05, "high": 0.2, "p": 0.001},
        {**common, "method": "lucky", "AP": 0.1, "low": 0.1, "high": 0.1, "p": 0.5},
    ]
    sites._adjust(rows)
    assert [row["q"] for row in rows] == pytest.approx([0.6, 0.003, 0.6])
    assert ["does NOT beat" in said for said in sites.verdicts_of(rows)] == [True, False, True]


def test_every_motif_of_the_generator_has_its_family() -> None:
    text = (Path(planted.__file__).parents[2] / "train/data/motifs.py").read_text(encoding="utf-8")
    assert all(f'"{term}"' in text for term in planted.FAMILIES)
    assert len(set(planted.FAMILIES.values())) == 3


def test_equal_results_compare_equal_and_others_are_refused(fake_run: ExplainedRun, tmp_path: Path) -> None:
    asked = {"proteins": ("T2",), "models": ("cnn", "stacker")}
    one, two = (make(fake_run, tmp_path / name, **asked).folder for name in ("one", "two"))
    assert compare(one, two) > 0
    changed = tmp_path / "changed"
    shutil.copytree(two, changed)
    lines = (changed / "explanations.jsonl").read_text().splitlines()
    value = json.loads(lines[1])
    value["values"][3] += 1e-5
    lines[1] = json.dumps(value, sort_keys=True, separators=(",", ":"))
    (changed / "explanations.jsonl").write_text("\n".join(lines) + "\n")
    _sign_again(changed, "explanations.jsonl")
    with pytest.raises(IntegrityError, match=f"explanation 2 differs: T2 {value['term']} cnn"):
        compare(one, changed)
    other = tmp_path / "other"
    shutil.copytree(two, other)
    result = json.loads((other / "result.json").read_bytes())
    result["provenance"]["model_sha256"] = "f" * 64
    (other / "result.json").write_text(json.dumps(result))
    with pytest.raises(ParityError, match="not comparable: model_sha256"):
        compare(one, other)
    with pytest.raises(MissingInput):
        compare(one, tmp_path)


def _sign_again(folder: Path, name: str) -> None:
    """As if the changed file had been made so."""
    from shared.digests import sha256_file

    result = json.loads((folder / "result.json").read_bytes())
    result["files"][name] = {"sha256": sha256_file(folder / name), "size": (folder / name).stat().st_size}
    (folder / "result.json").write_text(json.dumps(result))
