"""The page on the architecture names the folders and the order of imports that there are."""

import re

from paths import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "sb3_sgmrl"


def section(heading):
    """The text below a heading of the page."""
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]


def test_the_folders_are_those_of_the_package():
    rows = re.findall(r"^\| (`.*?) \|", section("Folders"), re.MULTILINE)
    named = {folder for row in rows for folder in re.findall(r"`([\w/]+)/`", row)}
    folders = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__"}
    assert named == folders


def test_the_order_of_imports_is_that_of_the_contract():
    picture = re.search(r"```text\n(.*?)```", section("Import order"), re.DOTALL)[1]
    drawn = [set(re.findall(r"\w+", line)) for line in picture.splitlines() if re.search(r"\w", line)]
    contract = re.search(
        r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert drawn == [set(re.findall(r"\w+", line)) for line in contract[1].splitlines()]


def test_the_files_exist():
    files = re.findall(r"`(\w+/\w+\.py)`", PAGE)
    assert len(files) > 5
    assert [file for file in files if not (PACKAGE / file).is_file()] == []
