"""`python -m services.train.data.planted`: the demo data set of any seed as files, with a config that trains on them.

What `make xai-bench` measures explanations on: proteins whose motifs are known, and, with
`--permute-labels`, the same proteins with other proteins' labels, from which nothing can be learnt.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from services.train.data.demo import FILES, write_demo
from shared.atomic import write_json
from shared.config.data import DataConfig
from shared.edge import Parser, main

GOA = {"frozen_at": "2026-01-01"}  # as configs/demo.yaml: generated labels have no date of their own
# Two residue readers, and no votes: what is explained here has to be in the sequence.
LEVEL1 = {"models": ["mlp", "cnn"], "min_positives": 8, "mlp": {"hidden": 64, "epochs": 12}}
STACKER = {"epochs": 3, "proteins_per_epoch": 400}


def write_planted(folder: Path, seed: int, *, permute_labels: bool) -> Path:
    """Write the data set and its config; equal arguments give equal bytes.

    Returns:
        the config's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = write_demo(folder, size="demo", seed=seed)
    if permute_labels:
        permute(paths["train_terms"], seed)
    keys = sorted(set(paths) & set(DataConfig.input_files()))
    data = {"name": "files", **{key: str(paths[key].resolve()) for key in keys}}
    config = folder / "config.json"
    write_json(config, {"data": data, "goa": GOA, "level1": LEVEL1, "stacker": STACKER})
    return config


def permute(terms: Path, seed: int) -> None:
    """Give every protein the terms of another one."""
    header, *rows = [line.split("\t") for line in terms.read_text(encoding="utf-8").splitlines()]
    proteins = list(dict.fromkeys(row[0] for row in rows))
    other = np.random.default_rng([seed, 7]).permutation(len(proteins))
    name = {protein: proteins[other[i]] for i, protein in enumerate(proteins)}
    lines = sorted("\t".join([name[row[0]], *row[1:]]) for row in rows)
    terms.write_text("\n".join(["\t".join(header), *lines, ""]), encoding="utf-8")


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m services.train.data.planted", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=f"gets {', '.join(FILES.values())}")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--permute-labels", action="store_true", help="labels of other proteins")
    parser.set_defaults(command=_write)
    return parser


def _write(arguments: argparse.Namespace) -> int:
    print(write_planted(arguments.out, arguments.seed, permute_labels=arguments.permute_labels))
    return 0


if __name__ == "__main__":
    sys.exit(main(build_parser(), sys.argv[1:]))
