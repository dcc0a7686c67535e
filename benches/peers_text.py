"""datatrove's own rules, run by bench_text.py in an environment of their own.

    python peers_text.py FILE

FILE is a JSON list of texts. Prints CPU-seconds, bytes, and how many texts all filters keep.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    texts = json.loads(Path(sys.argv[1]).read_text())
    filters = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]

    def keeps(text: str) -> bool:
        document = Document(text=text, id="0")
        return all(one.filter(document) is True for one in filters)

    keeps(texts[0])  # loads the tokenizer
    started = time.process_time()
    kept = sum(keeps(text) for text in texts)
    seconds = time.process_time() - started
    size = sum(len(text.encode()) for text in texts)
    print(json.dumps({"seconds": seconds, "bytes": size, "kept": kept}))


if __name__ == "__main__":
    main()
