"""The notebook runs, and holds the outputs of its cells."""

import json
import re

import pytest
from execute_notebook import executed, without_bars
from paths import EXAMPLES

NOTEBOOK = EXAMPLES / "first_steps.ipynb"


def kinds(cells):
    """What each code cell shows."""
    return [
        [sorted(output.get("data", {output.get("name"): ""})) for output in cell["outputs"]]
        for cell in cells
        if cell["cell_type"] == "code"
    ]


def test_the_notebook_is_small_and_its_links_lead_to_files():
    assert NOTEBOOK.stat().st_size < 300 * 1024
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert outputs and all(output["output_type"] != "error" for output in outputs)
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 3 and all((EXAMPLES / target).exists() for target in targets)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_notebook_runs(tmp_path):
    pytest.importorskip("nbclient")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert kinds(without_bars(executed(NOTEBOOK, tmp_path)).cells) == kinds(cells)
    assert (tmp_path / "logs" / "first_steps" / "model.zip").exists()
