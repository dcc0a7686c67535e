"""Write an object of a store to standard output, for programs that read from a pipe.

    python -m pipelines.storage.cat s3://bucket/prefix/name.tar

It is read by the project's own client: `AWS_ENDPOINT_URL` and the usual credentials hold.
"""

from __future__ import annotations

import shutil
import sys

from pipelines.storage.open import split_uri


def main() -> None:
    store, name = split_uri(sys.argv[1])
    try:
        with store.open(name) as source:
            shutil.copyfileobj(source, sys.stdout.buffer, 1 << 20)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has enough


if __name__ == "__main__":
    main()
