from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.train.data.motifs import AMINO_ACIDS, MOTIFS, Motif, compile_pattern
from shared.errors import DataError

BY_ACCESSION = {motif.accession: motif for motif in MOTIFS}

CALMODULIN = (
    "MADQLTEEQIAEFKEAFSLFDKDGDGTITTKELGTVMRSLGQNPTEAELQDMINEVDADGNGTIDFPEFLTMMARKMKDTDSEEEIREAFRVFDKDGNGYISAAELRHVMTNLGEKL"
    "TDEEVDEMIREADIDGDGQVNYEEFVQMMTAK"
)
HRAS_START = "MTEYKLVVVGAGGVGKSALTIQLIQNHFVDEYDPTIEDSYRKQVVIDGET"
EGR1_FINGERS = "RPYACPVESCDRRFSRSDELTRHIRIHTGQKPFQCRICMRNFSRSDHLTTHIRTHTGEKPFACDICGRKFARSDERKRHTKIHLRQKD"
CHYMOTRYPSINOGEN_START = "CGVPAIQPVLSGLSRIVNGEEAVPGSWPWQVSLQDKTGFHFCGGSLINENWVVTAAHCGVTTSDVVV"


@pytest.mark.parametrize(
    ("accession", "regex"),
    [
        ("PS00017", "[AG].{4}GK[ST]"),
        ("PS00028", "C.{2,4}C.{3}[LIVMFYWC].{8}H.{3,5}H"),
        ("PS00018", "D[^W][DNS][^ILVFYW][DENSTG][DNQGHRK][^GP][LIVMC][DENQSTAGC].{2}[DE][LIVMFYW]"),
        ("PS00134", "[LIVM][ST]A[STAG]HC"),
        ("PS00039", "[LIVMF]{2}DEAD[RKEN].[LIVMFYGSTN]"),
    ],
)
def test_patterns_compile_to_the_known_expressions(accession: str, regex: str) -> None:
    assert BY_ACCESSION[accession].pattern.regex == regex


@pytest.mark.parametrize(
    ("accession", "sequence", "sites"),
    [
        ("PS00017", HRAS_START, [(10, 17)]),
        ("PS00018", CALMODULIN, [(21, 33), (57, 69), (94, 106), (130, 142)]),
        ("PS00028", EGR1_FINGERS, [(5, 27), (35, 55), (63, 83)]),
        ("PS00134", CHYMOTRYPSINOGEN_START, [(53, 58)]),
    ],
)
def test_known_proteins_match_where_they_are_known_to(
    accession: str, sequence: str, sites: list[tuple[int, int]]
) -> None:
    found = BY_ACCESSION[accession].pattern.occurrences(sequence)
    assert [(match.start + 1, match.end) for match in found] == sites


def test_constrained_positions_are_residues_and_classes_only() -> None:
    (ras,) = BY_ACCESSION["PS00017"].pattern.occurrences(HRAS_START)
    assert [position + 1 for position in ras.constrained] == [10, 15, 16, 17]
    first, *_ = BY_ACCESSION["PS00018"].pattern.occurrences(CALMODULIN)
    assert [position - first.start for position in first.constrained] == [0, 2, 4, 5, 7, 8, 11, 12]
    finger, *_ = BY_ACCESSION["PS00028"].pattern.occurrences(EGR1_FINGERS)
    assert "".join(EGR1_FINGERS[position] for position in finger.constrained) == "CCFHH"


@pytest.mark.parametrize("motif", MOTIFS, ids=lambda motif: motif.accession)
def test_each_known_site_matches_its_own_pattern_once(motif: Motif) -> None:
    (match,) = motif.pattern.occurrences(motif.site)
    assert (match.start, match.end) == (0, len(motif.site))
    assert len(motif.typical) == len(match.constrained)


def test_overlapping_matches_and_alternative_gaps_are_all_found() -> None:
    assert [match.start for match in compile_pattern("A-x-A").occurrences("AAAAA")] == [0, 1, 2]
    both = compile_pattern("C-x(1,2)-C").occurrences("CACC")
    assert [match.constrained for match in both] == [(0, 2), (0, 3)]


def test_anchors_hold_at_the_ends_only() -> None:
    end = compile_pattern("[KRHQSA]-[DENQ]-E-L>.")  # PS00014, the signal that keeps a protein in the ER
    assert [match.start for match in end.occurrences("KDELAKDEL")] == [5]
    start = compile_pattern("<M-K")
    assert [match.start for match in start.occurrences("MKMK")] == [0]


@pytest.mark.parametrize(
    "text", ["", "A-", "A--C", "B(2", "[AG]-y", "x(4,2)", "[]-A", "[G>]", "x(0,9)-x(0,99)-x(0,99)"]
)
def test_what_is_no_pattern_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(DataError, match="in "):
        compile_pattern(text)


@given(st.sampled_from(MOTIFS), st.data())
def test_occurrences_start_where_one_regular_expression_says(motif: Motif, data: st.DataObject) -> None:
    letters = "".join(sorted(set(motif.site) | {"W", "P"}))
    flank = st.text(letters, max_size=12)
    pieces = data.draw(st.lists(st.one_of(flank, st.just(motif.site)), min_size=1, max_size=4))
    sequence = "".join(pieces)
    found = motif.pattern.occurrences(sequence)
    expected = [match.start() for match in re.finditer(f"(?={motif.pattern.regex})", sequence)]
    assert sorted({match.start for match in found}) == expected
    for match in found:
        assert re.fullmatch(motif.pattern.regex, sequence[match.start : match.end])
        assert set(match.constrained) <= set(range(match.start, match.end))


@given(st.text(AMINO_ACIDS, max_size=60))
def test_an_element_allows_what_its_expression_matches(residues: str) -> None:
    for element in compile_pattern("x-C-[AG]-{WY}").elements:
        assert [element.allows(residue) for residue in residues] == [
            re.fullmatch(element.regex, residue) is not None for residue in residues
        ]
