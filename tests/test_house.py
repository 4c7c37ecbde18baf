"""The house: who imports whom, and how large files, folders and rooms may be."""

import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

MAX_LINES, MAX_FILES, MAX_SHARE = 400, 14, 0.2
TREES = [ROOT / "sb3_sgmrl", ROOT / "tests", ROOT / "examples"]


def n_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def folders(tree: Path) -> dict[Path, list[Path]]:
    """The files of every folder that holds some, without what Python and tools put there."""
    files = [path for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts and path.name[0] != "."]
    return {folder: [path for path in files if path.parent == folder] for folder in {path.parent for path in files}}


def test_imports_keep_the_contracts() -> None:
    pytest.importorskip("importlinter")
    # in a process of its own, because it replaces the streams of the one that calls it
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.name)
def test_files_are_short(tree: Path) -> None:
    lines = {str(path.relative_to(ROOT)): n_lines(path) for path in tree.rglob("*.py")}
    assert lines
    assert {name: n for name, n in lines.items() if n > MAX_LINES} == {}


@pytest.mark.parametrize("tree", TREES[:2], ids=lambda tree: tree.name)
def test_folders_have_few_files(tree: Path) -> None:
    n_files = {str(folder.relative_to(ROOT)): len(files) for folder, files in folders(tree).items()}
    assert len(n_files) > 5
    assert {name: n for name, n in n_files.items() if n > MAX_FILES} == {}


def test_no_room_is_a_fifth_of_the_house() -> None:
    by_room = {
        str(folder.relative_to(ROOT)): sum(n_lines(path) for path in files if path.suffix == ".py")
        for folder, files in folders(TREES[0]).items()
    }
    total = sum(by_room.values())
    assert total > 1000
    assert {room: n for room, n in by_room.items() if n >= MAX_SHARE * total} == {}


def test_modules_of_tests_have_names_of_their_own() -> None:
    """pytest imports them by their names alone."""
    names = [path.stem for path in TREES[1].rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
