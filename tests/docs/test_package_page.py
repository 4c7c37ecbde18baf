"""Links and pictures of the README also work on the package index."""

import re
import runpy

from paths import ROOT

HOME = "https://github.com/owner/name"


def test_links_are_absolute_on_the_package_index():
    with_absolute_links = runpy.run_path(str(ROOT / "setup.py"), run_name="read")["with_absolute_links"]
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", page)
    absolute = re.findall(r"\]\(([^)\s]+)\)", with_absolute_links(page, HOME))
    assert len(absolute) == len(targets)
    for before, after in zip(targets, absolute, strict=True):
        if before.startswith("https://"):
            assert after == before
        elif before.endswith(".png"):
            assert after == f"https://raw.githubusercontent.com/owner/name/main/{before}"
        else:
            assert after == f"{HOME}/blob/main/{before}"
    assert with_absolute_links("[a](#b) `x[0](1)`", HOME).startswith("[a](#b)")


def test_the_address_is_that_of_the_project(monkeypatch):
    given = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("setuptools.setup", lambda **kwargs: given.update(kwargs))
    runpy.run_path(str(ROOT / "setup.py"), run_name="__main__")
    assert given["long_description_content_type"] == "text/markdown"
    (address,) = re.findall(r'Homepage = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert f"({address}/blob/main/docs/theory.md)" in given["long_description"]
