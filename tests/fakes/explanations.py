"""Makes explanation documents that are valid, without a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from services.xai_worker.exports import Explained, MutationTable
from services.xai_worker.naming import safe_name
from services.xai_worker.result import (
    AccountExplanation,
    AccountPart,
    Alignment,
    AnyExplanation,
    CarriedSite,
    ChannelExplanation,
    CompletenessGate,
    ComplexityGate,
    CounterfactualExplanation,
    EmbeddingParity,
    ExplainedScore,
    FaithfulnessGate,
    FaithfulnessPoint,
    Gates,
    Interaction,
    ModalityExplanation,
    ModalityShare,
    Mutation,
    MutationExplanation,
    Neighbour,
    NeighbourExplanation,
    Part,
    PathExplanation,
    PathNode,
    Removed,
    ResidueExplanation,
    ScalarParity,
    SitesGate,
    SpecificityGate,
    StabilityGate,
    TermPart,
    Violation,
    Word,
    round_significant,
    top_residues,
)
from services.xai_worker.structure import Structure

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
TERMS = {"GO:0005524": "ATP binding", "GO:0016020": "membrane; 100% <b>&\tfat</b>"}


def common(protein: str, term: str, *, converged: bool | None = True) -> dict[str, Any]:
    error = 0.001 if converged else 0.2
    completeness = None
    if converged is not None:
        completeness = CompletenessGate(
            explained=1.5, attributed=1.5 + error, error=error, tolerance=0.01, steps=32, converged=converged
        )
    parity = ScalarParity(recomputed=2.2512, stored=2.25, difference=0.0012, tolerance=0.011)
    return {
        "protein": protein,
        "term": term,
        "term_name": TERMS.get(term, term),
        "aspect": "MF",
        "score": ExplainedScore(logit=2.25, reference=0.75, folds=[0, 1, 2, 3, 4], probability=0.91),
        "gates": Gates(parity=parity, embedding=None, completeness=completeness),
    }


def residues(
    sequence: str,
    values: list[float | None],
    *,
    protein: str = "P1",
    term: str = "GO:0005524",
    model: str = "cnn",
    method: str = "occlusion",
    converged: bool | None = True,
) -> ResidueExplanation:
    return ResidueExplanation(
        **common(protein, term, converged=converged),
        model=model,
        method=method,
        sequence=sequence,
        values=values,
        covered=sum(value is not None for value in values),
        top=top_residues(sequence, values),
    )


def channels(protein: str = "P1", term: str = "GO:0005524", goa: float = -0.5) -> ChannelExplanation:
    values = {("level1:cnn", "self"): 1.0, ("level1:cnn", "other"): -0.25, ("goa:IEA", "ancestors"): goa}
    parts = [
        Part(channel=channel, relation=relation, value=values.get((channel, relation), 0.0))
        for channel in ("level1:cnn", "missing", "goa:IEA")
        for relation in ("self", "ancestors", "descendants", "other")
    ]
    return ChannelExplanation(**common(protein, term), model="stacker", method="stacker_parts", parts=parts)


def explained(
    protein: str = "P1", *, length: int = 143, seed: int = 3, structure: Structure | None = None
) -> Explained:
    """Two terms by two methods each: wide and narrow ranges, negative values, residues that no model saw."""
    rng = np.random.default_rng(seed)
    sequence = "".join(rng.choice(list(LETTERS), length))
    found: list[Any] = []
    for term in TERMS:
        for scale, method in ((1.0, "occlusion"), (1e-7, "integrated_gradients")):
            values: list[float | None] = [round_significant(v) for v in (scale * rng.standard_normal(length)).tolist()]
            values[-3:] = [None, None, 0.0]
            model = "cnn" if method == "occlusion" else "mlp/esm2"
            found.append(residues(sequence, values, protein=protein, term=term, model=model, method=method))
        found.append(channels(protein, term))
    return Explained(protein, safe_name(protein), sequence, found, structure=structure)


# Adenylate kinase of E. coli (UniProt P69441): a real sequence, with invented numbers that peak at its P-loop (7-15).
KINASE = (
    "MRIILLGAPGAGKGTQAQFIMEKYGIPQISTGDMLRAAVKSGSELGKQAKDIMDAGKLVTDELVIALVKERIAQEDCRNGFLLDGFPRTIPQADAMKEAGINVDYVLEFDVPD"
    "ELIVDRIVGRRVHAPSGRVYHVKFNPPKVEGKDDVTGEELTTRKDDQEETVRKRLVEYHQMTAPLIGYYSKEAEAGNTKYAKVDGTKPVAEVRADLEKILG"
)
LOOP = range(7, 16)


def measured(*, faithful: bool = True) -> Gates:
    """Every gate, all passing but faithfulness where it is not."""
    size = 2.2 if faithful else 0.25
    curve = [
        FaithfulnessPoint(
            masked=k, drop=size * (1 - 0.75**k), random_mean=0.04 * k, random_low=0.01 * k, random_high=0.09 * k
        )
        for k in (1, 2, 4, 8, 16, 32)
    ]  # fmt: skip
    return Gates(
        parity=ScalarParity(recomputed=3.1172, stored=3.1171, difference=0.0001, tolerance=0.011),
        embedding=EmbeddingParity(encoder="esm2", relative_error=0.0002, tolerance=0.001),
        completeness=CompletenessGate(
            explained=4.2, attributed=4.203, error=0.0007, tolerance=0.01, steps=32, converged=True
        ),
        faithfulness=FaithfulnessGate(
            budget=0.15, orders=100, drop=1.42, random_mean=0.31, random_low=0.1, random_high=0.62,
            difference=1.11 if faithful else -0.05, low=1.02 if faithful else -0.1, high=1.2,
            p=0.0099 if faithful else 0.43, curve=curve, passed=faithful,
        ),
        stability=StabilityGate(draws=10, substitutions=21, spearman=0.91, lowest=0.84, jaccard=0.82, passed=True),
        specificity=SpecificityGate(spearman=0.34, term="GO:0003677", compared=5, passed=True),
        complexity=ComplexityGate(effective_residues=41.2, gini=0.71, residues=len(KINASE)),
        sites=SitesGate(
            status="known", sites=13, average_precision=0.61, auroc=0.93, fold=8.2, p=0.005, shifts=len(KINASE) - 1,
            passed=True,
        ),
    )  # fmt: skip


def everything(*, faithful: bool = True, structure: Structure | None = None) -> Explained:
    """One protein with every kind of explanation for one term, and a second term with fewer."""
    rng, length = np.random.default_rng(5), len(KINASE)
    shape = 0.05 * rng.standard_normal(length)
    shape[[at - 1 for at in LOOP]] += np.array([0.5, 0.2, 0.4, 0.9, 0.5, 1.3, 2.1, 1.6, 0.8])
    shape[118:125] -= 0.3
    base: dict[str, Any] = {
        "protein": "P69441", "term": "GO:0005524", "term_name": "ATP binding", "aspect": "MF",
        "score": ExplainedScore(logit=3.1172, reference=-1.1, folds=[0, 1, 2, 3, 4], probability=0.962),
        "gates": Gates(parity=measured().parity, embedding=None, completeness=None),
    }  # fmt: skip

    def track(model: str, method: str, noise: float, gates: Gates) -> ResidueExplanation:
        values: list[float | None] = [
            round_significant(v) for v in (shape + noise * rng.standard_normal(length)).tolist()
        ]
        return ResidueExplanation(
            **{**base, "gates": gates}, model=model, method=method, sequence=KINASE, values=values, covered=length,
            top=top_residues(KINASE, values), standard_errors=[0.01] * length if "expected" in method else None,
            note="position contribution (contextualised), not site evidence" if "pooled" in method else None,
        )  # fmt: skip

    return Explained(
        "P69441",
        "P69441",
        KINASE,
        [
            track("final", "occlusion", 0.0, measured(faithful=faithful)),
            track("final", "integrated_gradients", 0.12, measured()),
            track("final", "expected_gradients", 0.08, measured()),
            track("final", "pooled_exact", 0.3, measured(faithful=False)),
            *_evidence(base),
            residues(KINASE, [round_significant(v) for v in (0.02 * rng.standard_normal(length)).tolist()],
                     protein="P69441", term="GO:0016020", converged=False),
        ],
        mutations=[_mutation_table(shape)],
        structure=structure,
    )  # fmt: skip


def _mutation_table(shape: Any) -> MutationTable:
    order = "GAVLIMFWYPCSTNQHKRDE"
    rows = [
        (at, own, other, round_significant(-shape[at - 1] * (0.6 + 0.4 * abs(order.index(own) - k) / 10)))
        for at, own in enumerate(KINASE, start=1)
        for k, other in enumerate(order)
        if other != own
    ]
    return MutationTable("P69441", "GO:0005524", "final", "virtual_mutations", rows)


def _evidence(base: dict[str, Any]) -> list[AnyExplanation]:
    table = _mutation_table(np.where([at in LOOP for at in range(1, len(KINASE) + 1)], 1.5, 0.05))
    ordered = [
        Mutation(position=at, residue=own, substitution=other, value=v)
        for at, own, other, v in sorted(table.rows, key=lambda row: row[3])
    ]
    parts = [
        Part(channel=c, relation=r, value=v)
        for c, row in {
            "level1:mlp": (1.4, 0.3, 0.1, 0.02), "level1:cnn": (0.9, 0.1, 0, 0), "level1:knn": (0.6, 0.05, 0, 0),
            "level1:homology": (0.5, 0.2, 0.02, -0.01), "missing": (0, 0, 0, 0), "goa:IEA": (0.25, -0.1, 0, 0),
        }.items() for r, v in zip(("self", "ancestors", "descendants", "other"), row, strict=True)
    ]  # fmt: skip
    final = {**base, "model": "final"}
    names = {
        "GO:0003674": "molecular_function", "GO:0005488": "binding", "GO:0097159": "organic cyclic compound binding",
        "GO:0036094": "small molecule binding", "GO:0043167": "ion binding", "GO:0043168": "anion binding",
        "GO:0000166": "nucleotide binding", "GO:0032559": "adenyl ribonucleotide binding", "GO:0005524": "ATP binding",
        "GO:0004017": "adenylate kinase activity",
    }  # fmt: skip
    edges = [
        ("GO:0005488", "GO:0003674"), ("GO:0097159", "GO:0005488"), ("GO:0036094", "GO:0005488"),
        ("GO:0043167", "GO:0005488"), ("GO:0043168", "GO:0043167"), ("GO:0000166", "GO:0097159"),
        ("GO:0000166", "GO:0036094"), ("GO:0032559", "GO:0000166"), ("GO:0032559", "GO:0043168"),
        ("GO:0005524", "GO:0032559"), ("GO:0004017", "GO:0005524"),
    ]  # fmt: skip
    score = dict(zip(names, (0.999, 0.998, 0.99, 0.985, 0.985, 0.97, 0.98, 0.965, 0.962, 0.962), strict=True))
    nodes = [
        PathNode(term=t, name=n, own=0.9 if t == "GO:0005524" else score[t], probability=score[t])
        for t, n in names.items()
    ]
    query, other = KINASE[:70], KINASE[:28].replace("I", "V") + "--" + KINASE[30:66].replace("D", "E") + "GKSA"
    aligned = Alignment(
        identity=0.62, query_start=1, query_end=70, neighbour_start=4, neighbour_end=71, query=query, neighbour=other,
        evalue=3e-31,
    )  # fmt: skip
    sites = [CarriedSite(neighbour_position=at + 3, neighbour_residue=KINASE[at - 1], position=at,
                         residue=KINASE[at - 1]) for at in (10, 13, 14, 15)]  # fmt: skip
    return [
        ChannelExplanation(**base, model="stacker", method="stacker_parts", parts=parts, terms=[
            TermPart(term="GO:0005524", name="ATP binding", relation="self", value=3.65),
            TermPart(term="GO:0032559", name="adenyl ribonucleotide binding", relation="ancestors", value=0.41)]),
        MutationExplanation(**final, method="virtual_mutations", sequence=KINASE, alphabet="ACDEFGHIKLMNPQRSTVWY",
                            positions=list(range(1, len(KINASE) + 1)), lowering=ordered[:10],
                            raising=ordered[::-1][:10], agreement=0.87),
        ModalityExplanation(**final, method="shapley", shares=[
            ModalityShare(modality="esm2", value=1.92, low=1.7, high=2.13),
            ModalityShare(modality="t5", value=1.05, low=0.9, high=1.2),
            ModalityShare(modality="text", value=0.64, low=0.31, high=0.95),
            ModalityShare(modality="taxon", value=-0.12, low=-0.2, high=-0.03),
            ModalityShare(modality="goa", value=0.2, low=0.12, high=0.29),
            ModalityShare(modality="homology", value=0.5272, low=0.4, high=0.66)],
            interactions=[Interaction(first="esm2", second="t5", value=-0.41)], coalitions=64, background=32, seed=0,
            efficiency_residual=4e-7),
        AccountExplanation(**final, method="account", sequence=KINASE, parts=[
            AccountPart(source="residues:esm2", value=2.0), AccountPart(source="residues:t5", value=0.9),
            AccountPart(source="words", value=0.7), AccountPart(source="taxon", value=-0.1),
            AccountPart(source="votes:knn", value=0.6)], remainder=0.1172, residues=[0.01] * len(KINASE),
            words=[Word(word="kinase", weight=0.41, value=0.52), Word(word="<b>nucleotide</b>", weight=0.2, value=0.21),
                   Word(word="membrane", weight=0.1, value=-0.06)], words_left_out=41, other_words=0.03),
        NeighbourExplanation(**final, method="knn_shares", weight=0.3, own_probability=0.9, vote=0.82, corrected=0.876,
            neighbours=[
                Neighbour(protein="P27142", cosine=0.97, weight=0.41, has_term=True, share=0.47, alignment=aligned,
                          sites=sites),
                Neighbour(protein="P00568", cosine=0.93, weight=0.3, has_term=True, share=0.35, alignment=None,
                          sites=[]),
                Neighbour(protein="Q9Y3D8<script>", cosine=0.88, weight=0.16, has_term=False, share=0.0,
                          alignment=None, sites=[])]),
        PathExplanation(**final, method="go_path", path=["GO:0005524", "GO:0004017"], nodes=nodes, edges=edges,
                        violations=[Violation(child="GO:0004017", parent="GO:0005524", gap=0.062)]),
        CounterfactualExplanation(**final, method="counterfactual_residues", subject="residues", threshold=0.5,
            own_probability=0.9, found=True, removed=[
                Removed(name="K13", position=13, probability=0.71), Removed(name="G14", position=14, probability=0.55),
                Removed(name="G12", position=12, probability=0.38)], after=0.38, search="greedy",
            minimality="irreducible", budget=32, fixed=["text", "taxon", "votes"]),
        CounterfactualExplanation(**final, method="counterfactual_modalities", subject="modalities", threshold=0.5,
            own_probability=0.9, found=False, removed=[], after=0.61, search="exhaustive", minimality="none",
            budget=2, fixed=[]),
    ]  # fmt: skip
