"""
Execute a notebook and write its outputs into it, without progress bars.

    python tests/docs/execute_notebook.py examples/first_steps.ipynb
"""

import argparse
import pathlib

TIMEOUT = 1800


def executed(path: pathlib.Path, folder: pathlib.Path):
    """The notebook with the outputs of all cells; ``folder`` is where it runs. A cell that raises ends it."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def without_bars(notebook):
    """The same notebook without progress bars, warnings, texts of tables and pictures, and times of execution."""
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr" and not _is_widget(output)]
            for output in cell.outputs:
                if len(output.get("data", {})) > 1:  # a table or a picture stands in for its text
                    del output.data["text/plain"]
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    return notebook


def _is_widget(output) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def main() -> None:
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=pathlib.Path, help="notebook to execute")
    path = parser.parse_args().notebook
    nbformat.write(without_bars(executed(path, path.parent)), path)


if __name__ == "__main__":
    main()
