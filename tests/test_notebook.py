"""The outputs of the notebook of docs/; tests/test_docs.py runs its cells on a smaller store.

python -m tests.test_notebook      # on the demo's store: writes the outputs that are shown
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "from-address-to-table.ipynb"

#: A word of the notebook, and that for a smaller store, of the documents' commands.
OF_DOCUMENTS = "64", "8"


def run_notebook() -> nbformat.NotebookNode:
    """Run the notebook beside the documents, in a kernel, and return it."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": NOTEBOOK.parent}}
    NotebookClient(notebook, timeout=120, resources=resources, record_timing=False).execute()
    return notebook


def test_its_outputs_are_of_one_run_and_of_no_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert any("random vectors would not have" in output.get("text", "") for output in outputs)
    for output in outputs:
        texts = [output.get("text", ""), *output.get("data", {}).values()]
        assert output.output_type != "error"
        assert not any(f"{root}/" in text for text in texts for root in ("/tmp", "/home", "/work"))


if __name__ == "__main__":
    nbformat.write(run_notebook(), NOTEBOOK)
