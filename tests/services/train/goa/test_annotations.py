from __future__ import annotations

import datetime

import pytest
from fakes.ontologies import make_ontology

from services.train.goa.annotations import CHANNELS, EVIDENCE_CODES, RowRules, collect
from services.train.goa.gaf import GafRow
from services.train.goa.graph import TermTable
from shared.config import GoaConfig
from shared.errors import DataError
from shared.ontology import Ontology

# MF root 0, BP root 1, CC root 2; 3 below 0
PLAIN = make_ontology([[], [], [], [0]], [0, 1, 2, 0])
ONTOLOGY = Ontology(
    PLAIN.terms, PLAIN.names, PLAIN.aspects, PLAIN.parents, {"GO:0000099": "GO:0000003"}, frozenset({"GO:0000077"}), "t"
)
TERMS = TermTable(ONTOLOGY)
RULES = RowRules(frozenset(GoaConfig().dropped_codes), None)


def row(*, term=b"GO:0000003", code=b"IEA", aspect=b"F", qualifier=b"enables", date=b"20200101", protein=0) -> GafRow:
    return GafRow(7, protein, qualifier, term, code, aspect, date)


def pairs(rows, rules=RULES) -> list[tuple[int, str, str]]:
    keys = collect(rows, TERMS, rules, "a.gaf").keys
    return [
        (
            int(k) // len(TERMS) // len(CHANNELS),
            CHANNELS[int(k) // len(TERMS) % len(CHANNELS)],
            TERMS.ids[int(k) % len(TERMS)],
        )
        for k in keys
    ]


def test_channels_are_in_alphabetical_order():
    assert list(CHANNELS) == sorted(CHANNELS)


@pytest.mark.parametrize("code", sorted(EVIDENCE_CODES))
def test_every_known_code_is_dropped_or_has_a_channel(code):
    found = pairs([row(code=code.encode())])
    if code in RULES.dropped_codes:
        assert found == []
    else:
        assert found == [(0, code if code in CHANNELS else "other", "GO:0000003")]


def test_the_default_drops_all_experimental_high_throughput_and_author_statement_codes():
    assert RULES.dropped_codes == frozenset(
        ["EXP", "IDA", "IPI", "IMP", "IGI", "IEP", "TAS", "IC", "HTP", "HDA", "HMP", "HGI", "HEP"]
    )


def test_an_unknown_code_is_refused_unless_it_is_dropped():
    with pytest.raises(DataError, match=r"'XYZ'.*a\.gaf:7.*goa\.dropped_codes"):
        pairs([row(code=b"XYZ")])
    assert pairs([row(code=b"XYZ")], RowRules(frozenset({"XYZ"}), None)) == []


@pytest.mark.parametrize(
    ("qualifier", "channel"),
    [
        (b"NOT", "NOT"),
        (b"NOT|enables", "NOT"),
        (b"enables|NOT", "NOT"),
        (b"not", "NOT"),
        (b"", "IEA"),
        (b"NOTICE", "IEA"),
    ],
)
def test_a_negated_row_is_never_positive(qualifier, channel):
    assert pairs([row(qualifier=qualifier)]) == [(0, channel, "GO:0000003")]


def test_a_negated_row_with_a_dropped_code_is_dropped():
    assert pairs([row(qualifier=b"NOT", code=b"IDA")]) == []


def test_rows_after_the_date_are_dropped_and_counted():
    rules = RowRules(frozenset(), datetime.date(2021, 3, 4))
    rows = [row(date=date, protein=i) for i, date in enumerate([b"20210303", b"20210304", b"20210305"])]
    found = collect(rows, TERMS, rules, "a.gaf")
    assert (len(found.keys), found.counts.after_frozen_at) == (2, 1)


def test_alternative_ids_are_mapped_and_dead_or_unknown_ones_counted():
    found = collect([row(term=b"GO:0000099"), row(term=b"GO:0000077"), row(term=b"GO:9999999")], TERMS, RULES, "a.gaf")
    assert [TERMS.ids[int(key) % len(TERMS)] for key in found.keys] == ["GO:0000003"]
    assert (found.counts.obsolete_term, found.counts.unknown_term) == (1, 1)
    assert found.counts.kept_by_code == {"IEA": 1}


def test_repeated_rows_count_once():
    assert pairs([row(), row(), row(protein=2)]) == [(0, "IEA", "GO:0000003"), (2, "IEA", "GO:0000003")]


@pytest.mark.parametrize("date", [b"", b"2020-1-1", b"2020010a", b"202001011"])
def test_a_date_that_is_none_is_refused(date):
    with pytest.raises(DataError, match=r"YYYYMMDD.*a\.gaf:7"):
        pairs([row(date=date)])


@pytest.mark.parametrize("aspect", [b"P", b"", b"X"])
def test_an_aspect_that_the_ontology_contradicts_is_refused(aspect):
    with pytest.raises(DataError, match=r"GO:0000003 is in MF.*a\.gaf:7"):
        pairs([row(aspect=aspect)])
