from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.xai_worker.cli import EXPORTS, build_parser
from services.xai_worker.evidence import EVIDENCE
from services.xai_worker.explainers import EXPLAINERS
from services.xai_worker.exports import EXPORTERS
from services.xai_worker.methods import METHODS, TIERS
from shared.edge import main


def test_the_methods_are_the_registered_ones() -> None:
    assert (*EXPLAINERS, *EVIDENCE) == METHODS
    for tier in TIERS.values():
        assert set(tier.methods) | set(tier.final) | set(tier.draws) <= set(METHODS)


@pytest.mark.parametrize(
    "argv", [[], ["explain"], ["explain", "--from-manifest", "m", "--method", "guess"], ["explane"]]
)
def test_a_wrong_command_line_is_64(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(build_parser(), argv)
    assert caught.value.code == 64
    assert capsys.readouterr().out == ""


def test_an_impossible_option_is_64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(build_parser(), ["explain", "--from-manifest", str(tmp_path / "m"), "--window", "2", "--quiet"]) == 64
    assert "odd" in capsys.readouterr().err


def test_a_missing_manifest_is_66_and_said_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(build_parser(), ["explain", "--from-manifest", str(tmp_path / "manifest.json"), "--quiet"]) == 66
    printed = capsys.readouterr()
    assert "manifest.json" in printed.err
    assert printed.out == ""


def test_a_manifest_that_is_none_is_80(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"manifest_version": "7.0"}))
    assert main(build_parser(), ["explain", "--from-manifest", str(tmp_path / "manifest.json"), "--quiet"]) == 80
    assert "7.0" in capsys.readouterr().err


def test_the_exports_are_the_registered_ones() -> None:
    assert tuple(EXPORTERS) == EXPORTS


@pytest.mark.parametrize("argument", ["T1", "=x", "T1="])
def test_a_structure_is_given_as_accession_and_file(
    argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["explain", "--from-manifest", str(tmp_path / "m"), "--quiet", "--structure", argument]
    assert main(build_parser(), command) == 64
    assert "ACC=FILE" in capsys.readouterr().err


def test_no_process_is_64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(build_parser(), ["explain", "--from-manifest", str(tmp_path / "m"), "--jobs", "0", "--quiet"]) == 64
    assert "--jobs 0" in capsys.readouterr().err


def test_the_benchmark_needs_a_release_or_two_results(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(build_parser(), ["bench"]) == 64
    assert "--from-manifest" in capsys.readouterr().err
    assert main(build_parser(), ["bench", "--compare", str(tmp_path), str(tmp_path)]) == 66
    assert "no complete result" in capsys.readouterr().err


def test_a_missed_gate_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from services.xai_worker.bench import command

    for passed, line in ((True, "PASS 2/2"), (False, "FAIL 1/2: speed")):
        monkeypatch.setattr(command, "run", lambda *_, passed=passed, line=line, **__: (passed, line))
        assert main(build_parser(), ["bench", "--from-manifest", "m"]) == (0 if passed else 1)
        assert capsys.readouterr().out.splitlines()[-1] == line
