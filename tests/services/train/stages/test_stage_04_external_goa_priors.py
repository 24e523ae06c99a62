from __future__ import annotations

import datetime
import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes.contexts import output, output_bytes, run_stage
from fakes.ontologies import make_ontology, ontologies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.train.goa.annotations import CHANNELS
from services.train.stages.stage_04_external_goa_priors import STAGE
from shared.config import Config, GoaConfig
from shared.errors import DataError
from shared.ontology import Ontology

TRAIN, TEST = ["P0", "P1", "P2"], ["Q0", "P1", "Q1"]  # P1 is in both


def gaf_line(protein, term, code, aspect, qualifier="", *, date="20200101") -> str:
    columns = ("UniProtKB", protein, "SYM", qualifier, term, "GO_REF:1", code, "", aspect, "", "", "protein")
    return "\t".join((*columns, "taxon:9606", date, "UniProt", "", ""))


def inputs(ontology: Ontology, stated=(), train=TRAIN, test=TEST) -> dict[str, Any]:
    labels = [(name, term, "MF", True) for name, term in stated]
    return {
        "parsed/train_seq.feather": pd.DataFrame({"id": train, "sequence": "M"}),
        "parsed/test_seq.feather": pd.DataFrame({"id": test, "sequence": "M"}),
        "parsed/train_terms.parquet": pd.DataFrame(labels, columns=["id", "term", "aspect", "stated"]),
        "parsed/ontology.json": ontology.to_json(),
    }


def run(root: Path, ontology, lines, stated=(), config=None, **more):
    path = root / "goa.gaf"
    path.write_text("".join(f"{line}\n" for line in ("!gaf-version: 2.2", *lines)))
    return run_stage(STAGE, root, inputs(ontology, stated, **more), config, {"data.gaf": path})


def table(ctx, part) -> list[tuple[str, str, str]]:
    frame = output(ctx, f"external/prop_{part}_no_kaggle.tsv.gz")
    assert list(frame.columns) == ["EntryID", "term", "channel", "score"]
    assert (frame["score"] == 1.0).all()
    return list(frame[["EntryID", "channel", "term"]].itertuples(index=False, name=None))


def above(ontology: Ontology, term: str) -> set[str]:
    return {ontology.terms[i] for i in ontology.ancestors(ontology.index[term])}


def below(ontology: Ontology, term: str) -> set[str]:
    return {other for other in ontology.terms if term in above(ontology, other)}


def expected(ontology, rows, stated, ids) -> list[tuple[str, str, str]]:
    """The rule, written with sets."""
    labels = {name: {t for n, t in stated if n == name} for name in ids}
    found = set()
    for name, term, code, negated in rows:
        mine = labels.get(name, set())
        specific = {t for t in mine if not any(t != other and t in above(ontology, other) for other in mine)}
        closure = below(ontology, term) if negated else above(ontology, term)
        if name in ids and code != "IDA" and term not in mine and not closure & specific:
            channel = "NOT" if negated else code if code in CHANNELS else "other"
            found |= {(name, channel, t) for t in closure}
    order = {name: row for row, name in enumerate(ids)}
    return sorted(found, key=lambda pair: (order[pair[0]], pair[1], pair[2]))


@st.composite
def worlds(draw):
    ontology = draw(ontologies(max_terms=14))
    terms = st.sampled_from(ontology.terms)
    name = st.sampled_from([*dict.fromkeys([*TRAIN, *TEST]), "nobody"])
    code = st.sampled_from(["IEA", "IBA", "RCA", "IDA"])
    rows = draw(st.lists(st.tuples(name, terms, code, st.booleans()), max_size=12))
    stated = draw(st.lists(st.tuples(st.sampled_from(TRAIN), terms), max_size=5, unique=True))
    return ontology, rows, stated


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=worlds())
def test_the_tables_are_what_the_rule_says_and_every_channel_is_closed(tmp_path_factory, world):
    ontology, rows, stated = world
    letter = {term: {0: "F", 1: "P", 2: "C"}[int(a)] for term, a in zip(ontology.terms, ontology.aspects, strict=True)}
    lines = [gaf_line(n, t, code, letter[t], "NOT|x" if negated else "x") for n, t, code, negated in rows]
    ctx = run(tmp_path_factory.mktemp("goa"), ontology, lines, stated)
    for part, ids in (("train", TRAIN), ("test", TEST)):
        found = table(ctx, part)
        assert found == expected(ontology, rows, stated, ids)
        pairs = set(found)
        for name, channel, term in pairs:
            closure = below(ontology, term) if channel == "NOT" else above(ontology, term)
            assert {(name, channel, other) for other in closure} <= pairs
        for name, term in stated:
            implied = any(n == name and t != term and term in above(ontology, t) for n, t in stated)
            assert implied or not any((name, channel, term) in pairs for channel in CHANNELS)


# 0 MF root, 1 BP root, 2 CC root, 3 and 4 below 0, 5 below 3 and 4, 6 below 5
DIAMOND = make_ontology([[], [], [], [0], [0], [3, 4], [5]], [0, 1, 2, 0, 0, 0, 0])
GO = DIAMOND.terms


def test_positive_channels_go_up_and_not_down_and_negation_goes_down_and_not_up(tmp_path):
    ctx = run(tmp_path, DIAMOND, [gaf_line("P0", GO[5], "IEA", "F"), gaf_line("P2", GO[5], "IBA", "F", "NOT|enables")])
    assert table(ctx, "train") == [
        *(("P0", "IEA", term) for term in (GO[0], GO[3], GO[4], GO[5])),
        *(("P2", "NOT", term) for term in (GO[5], GO[6])),
    ]
    assert output(ctx, "external/goa_manifest.json")["counts"]["negated"] == 1


def test_a_row_that_implies_a_stated_label_is_taken_out_whole(tmp_path):
    lines = [gaf_line("P0", GO[n], "IEA", "F") for n in (6, 5, 4)]
    ctx = run(tmp_path, DIAMOND, lines, [("P0", GO[5])])
    assert table(ctx, "train") == [("P0", "IEA", GO[0]), ("P0", "IEA", GO[4])]
    counts = output(ctx, "external/goa_manifest.json")["counts"]["train"]
    assert counts["annotations_implying_a_label"] == 2
    kept = run(tmp_path, DIAMOND, lines, [("P0", GO[5])], Config(goa=GoaConfig(drop_stated_labels=False)))
    assert ("P0", "IEA", GO[6]) in table(kept, "train")


def test_labels_written_propagated_do_not_take_out_everything_below_the_root(tmp_path):
    stated = [("P0", term) for term in (GO[0], GO[3])]
    ctx = run(tmp_path, DIAMOND, [gaf_line("P0", GO[4], "IEA", "F"), gaf_line("P0", GO[0], "ND", "F")], stated)
    assert table(ctx, "train") == [("P0", "IEA", GO[0]), ("P0", "IEA", GO[4])]


def test_labels_of_one_protein_do_not_touch_another_and_a_train_label_is_no_test_prior(tmp_path):
    lines = [gaf_line(name, GO[3], "IEA", "F") for name in ("P0", "P1", "Q0")]
    ctx = run(tmp_path, DIAMOND, lines, [("P1", GO[3])])
    assert {name for name, *_ in table(ctx, "train")} == {"P0"}
    assert {name for name, *_ in table(ctx, "test")} == {"Q0"}


def test_the_truth_of_test_proteins_is_not_an_input():
    declared = STAGE.inputs(Config())
    assert not [path for path in declared if "truth" in path or "known" in path]


def test_rows_assigned_after_the_date_are_left_out(tmp_path):
    lines = [gaf_line("P0", GO[3], "IEA", "F", date="20210302"), gaf_line("P0", GO[4], "IEA", "F", date="20210301")]
    config = Config(goa=GoaConfig(frozen_at=datetime.date(2021, 3, 1)))
    ctx = run(tmp_path, DIAMOND, lines, config=config)
    assert [term for _, _, term in table(ctx, "train")] == [GO[0], GO[4]]
    manifest = output(ctx, "external/goa_manifest.json")
    assert (manifest["frozen_at"], manifest["counts"]["after_frozen_at"]) == ("2021-03-01", 1)


def test_without_a_gaf_file_the_modality_is_absent(tmp_path):
    ctx = run_stage(STAGE, tmp_path, inputs(DIAMOND))
    for part in ("train", "test"):
        packed = (ctx.staging / f"external/prop_{part}_no_kaggle.tsv.gz").read_bytes()
        assert gzip.decompress(packed) == b"EntryID\tterm\tchannel\tscore\n"
        assert table(ctx, part) == []
    assert output(ctx, "external/goa_manifest.json")["modality"] == "absent"


def test_equal_inputs_give_equal_bytes(tmp_path):
    lines = [gaf_line(f"P{n % 3}", GO[n % 7 if n % 7 not in (1, 2) else 0], "IEA", "F") for n in range(40)]
    first, second = (run(tmp_path / name, DIAMOND, lines) for name in ("a", "b") if not (tmp_path / name).mkdir())
    assert output_bytes(first) == output_bytes(second)
    head = output_bytes(first)["external/prop_train_no_kaggle.tsv.gz"][:10]
    assert (head[3], head[4:8]) == (0, bytes(4))  # neither a file name nor a time


def test_a_missing_version_is_accepted_with_a_warning(tmp_path):
    path = tmp_path / "bare.gaf"
    path.write_text(gaf_line("P0", GO[3], "IEA", "F") + "\n")
    ctx = run_stage(STAGE, tmp_path, inputs(DIAMOND), files={"data.gaf": path})
    assert len(table(ctx, "train")) == 2
    assert output(ctx, "external/goa_manifest.json")["gaf"]["version"] is None
    assert "no gaf-version" in (tmp_path / "logs/run.jsonl").read_text()


def test_a_broken_line_stops_the_stage_with_its_number(tmp_path):
    with pytest.raises(DataError, match=r"goa\.gaf:3"):
        run(tmp_path, DIAMOND, [gaf_line("P0", GO[3], "IEA", "F"), "P0\tonly"])


@pytest.mark.real_data
def test_real_yeast_annotations(tmp_path, gowhy_data):
    ontology = Ontology.parse(gowhy_data / "go/go-basic.obo.gz")
    path = gowhy_data / "fixtures/goa_yeast.gaf"
    rows = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("!")]
    train = sorted({columns[1] for columns in rows})
    ctx = run_stage(STAGE, tmp_path, inputs(ontology, train=train, test=["Q0"]), files={"data.gaf": path})
    manifest = output(ctx, "external/goa_manifest.json")
    assert manifest["gaf"] == {
        "version": "2.1",
        "generated": "2016-10-03 09:46",
        "go_version": "http://purl.obolibrary.org/obo/go/releases/2016-10-01/go.owl",
    }
    counts = manifest["counts"]
    by_code = Counter(columns[6] for columns in rows)
    dropped = {code: n for code, n in by_code.items() if code in GoaConfig().dropped_codes}
    assert (counts["rows"], counts["wanted"], counts["dropped_by_code"]) == (587, 587, dropped)
    assert (
        sum(counts["kept_by_code"].values())
        == 587 - sum(dropped.values()) - counts["unknown_term"] - counts["obsolete_term"]
    )
    found = set(table(ctx, "train"))
    kept = [c for c in rows if c[6] not in dropped and ontology.resolve(c[4])]
    expect = {
        (c[1], c[6] if c[6] in CHANNELS else "other", t) for c in kept for t in above(ontology, ontology.resolve(c[4]))
    }
    assert found == expect
