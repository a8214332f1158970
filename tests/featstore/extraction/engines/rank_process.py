"""One rank in a process of its own, which stops in the middle until it is killed."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from featstore import EncoderSpec, ExtractConfig, read_manifest
from featstore.extraction.engines import Rank, extract_rank
from featstore.extraction.options import BlockDone
from featstore.extraction.targets import Job
from featstore.store import writer


def main() -> None:
    job = json.loads(sys.argv[1])
    writer.SYNC_SECONDS = 0.0  # every block durable at once
    marker = Path(job["marker"])
    blocks: list[BlockDone] = []

    def stop(done: BlockDone) -> None:
        blocks.append(done)
        if len(blocks) == job["stop_after"]:
            marker.touch()
            time.sleep(600)

    whole = Job(
        read_manifest(Path(job["manifest"]), unchecked=True),
        kind="image",
        encoders=[EncoderSpec(**choice) for choice in job["encoders"]],
        store=job["store"],
        config=ExtractConfig(**job["options"], on_block=stop),
    )
    extract_rank(whole, Rank(job["rank"], job["world_size"]))


if __name__ == "__main__":
    main()
