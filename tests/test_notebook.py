"""The notebook of docs/ runs from its first cell to its last, in a kernel of its own.

python -m tests.test_notebook      # on the demo's store: writes the outputs that are shown
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from bench.suites.demo import create_smoke_store
from featstore import open_store

NOTEBOOK = Path(__file__).parents[1] / "docs" / "from-address-to-table.ipynb"

#: Words of the notebook -> those for a smaller store, of the documents' commands.
OF_DOCUMENTS = {"64": "8"}

#: The same for the synthetic store.
OF_SMOKE = OF_DOCUMENTS | {
    "stamps/image/tf_efficientnet_lite0": "smoke/image/synthetic:image",
    "stamps/caption/all-MiniLM-L6-v2": "smoke/caption/synthetic:text",
    '"stamps"': '"smoke"',
    '"imagenet1k"': '"smokehead"',
}


def run_notebook(folder: Path, changes: Mapping[str, str]) -> nbformat.NotebookNode:
    """Run the notebook in a folder, with other words in its cells, and return it."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        for old, new in changes.items() if cell.cell_type == "code" else ():
            cell.source = cell.source.replace(old, new)
    resources = {"metadata": {"path": folder}}
    NotebookClient(notebook, timeout=120, resources=resources, record_timing=False).execute()
    return notebook


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A plain file server, which knows neither listings nor ranges, of the synthetic store."""
    create_smoke_store(tmp_path / "store")
    handler = partial(_Quiet, directory=str(tmp_path / "store"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_it_leads_from_an_address_to_a_verdict(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"), "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "STORE_ADDRESS": address,
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own puts plots into the cells
    notebook = run_notebook(tmp_path, OF_SMOKE)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    shown = [output["data"] for output in outputs if "data" in output]
    assert float(said.split("caption: ")[1].split()[0]) > 0.3
    assert "random vectors would not have done as well" in said
    assert sum("image/png" in data for data in shown) == 2
    assert any("shuffled" in data["text/plain"] for data in shown)
    key = "smoke/image/synthetic:image"
    revision = open_store(tmp_path / "store").info(key).commit.revision_id
    assert sum(revision[:12] in data["text/plain"] for data in shown) == 2


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
    nbformat.write(run_notebook(NOTEBOOK.parent, {}), NOTEBOOK)
