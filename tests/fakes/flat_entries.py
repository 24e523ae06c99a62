"""UniProt flat-file records made for tests."""

from __future__ import annotations

ENTRY = """\
ID   {name:<24}Reviewed;         104 AA.
AC   {accessions};
DT   01-MAR-2005, integrated into UniProtKB/Swiss-Prot.
DT   {date}, entry version 48.
DE   RecName: Full=Ferredoxin component {{ECO:0000303|PubMed:8226631}};
OS   Pseudomonas sp.
RN   [1]
RP   NUCLEOTIDE SEQUENCE, FUNCTION.
RT   "Metabolism of dibenzo-
RT   thiophene.";
CC   -!- FUNCTION: Shuttles electrons (PubMed:1, PubMed:22) {{ECO:0000269|PubMed:1,
CC       ECO:0000305}}. See GO:0009055 too.
CC   -!- SUBCELLULAR LOCATION: Periplasm.
CC   -!- SIMILARITY: Belongs to the ferredoxin family.
CC   -----------------------------------------------------------------------
CC   Copyrighted by the UniProt Consortium
CC   -----------------------------------------------------------------------
DR   EMBL; M60405; AAA16124.1; -; Genomic_DNA.
DR   GO; GO:0051537; F:iron-sulfur binding; ISS:UniProtKB.
DR   Pfam; PF00355; Rieske; 1.
KW   Electron transport; Plasmid.
SQ   SEQUENCE   10 AA;  11446 MW;  475625DCC3EDCD41 CRC64;
     MTVKWIEAVA
//
"""


def entry(*accessions: str, date: str = "11-DEC-2019") -> str:
    """One record, ended by its end line; 24 lines."""
    return ENTRY.format(name=f"{accessions[0]}_TEST", accessions="; ".join(accessions), date=date)
