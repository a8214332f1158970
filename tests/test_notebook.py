"""The notebook of docs/ runs from its first cell to its last, in a kernel of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from bench.cells import method_title
from bench.suites.demo import create_smoke_store
from featstore import open_store

NOTEBOOK = Path(__file__).parents[1] / "docs" / "from-address-to-table.ipynb"


#: Sets of the notebook -> those of the store that the documents' commands make.
OF_DOCUMENTS = {
    "smoke/image/synthetic:image": "stamps/image/tf_efficientnet_lite0",
    "smoke/caption/synthetic:text": "stamps/caption/all-MiniLM-L6-v2",
    "smokehead/head_weight/synthetic:image": "imagenet1k/head_weight/tf_efficientnet_lite0",
    "smokehead/class_name/synthetic:text": "imagenet1k/class_name/all-MiniLM-L6-v2",
    "smoke_runs": "demo_runs",
}


def run_notebook(folder: Path, changes: Mapping[str, str]) -> nbformat.NotebookNode:
    """Run the notebook in a folder, with other words in its cells, and return it."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        for old, new in changes.items():
            cell.source = cell.source.replace(old, new)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": folder}}).execute()
    return notebook


def test_it_leads_from_an_address_to_a_result_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("STORE_ADDRESS", raising=False)
    notebook = run_notebook(tmp_path, {})
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    shown = [output["data"] for output in outputs if "data" in output]
    (table,) = [data["text/markdown"] for data in shown if "text/markdown" in data]
    assert method_title("ridge") in table
    assert "shuffled" in table
    assert "top-1" in table
    assert "mean cosine of an image with its caption: 0." in said
    assert float(said.split("caption: ")[1].split()[0]) > 0.3
    create_smoke_store(tmp_path / "same")
    revision = open_store(tmp_path / "same").info("smoke/image/synthetic:image").commit.revision_id
    assert any(revision[:12] in data["text/plain"] for data in shown)


def test_no_output_of_one_machine_is_kept() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
