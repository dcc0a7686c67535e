"""Everything that runs on a GPU, in nine minutes on one GPU of the H100 class.

    python benches/bench_gpu.py [--seconds 530] [--only WORD ...] [--dry]

Correctness first: the bf16 loss of 64 sequences against float32, and equal greedy answers of the
fast, the exact and the bf16 path of evaluation. Then tokens per second and the share of the bf16
peak for OpenLM's shapes (plain, chunked, final), the wall time of CORE, samples per second of the
CLIP recipes, `near_targets`, CLIP scoring. Compilation and warm-up are outside the timed parts.

Every row has a time limit of its own; a row that fails or runs out of time is empty, with its
reason and a traceback. Rows are printed as they come and written after each one to $OUT/gpu.json,
or to build/bench/gpu.json. `--dry` runs the same code at toy sizes, on a CPU or a GPU, in under a
minute; its rows are not measurements and go to gpu-dry.json.

It needs python >= 3.11, torch >= 2.11, torchvision, numpy, numba, pyarrow, pyyaml, pillow, regex,
safetensors, timm, tokenizers, tqdm, huggingface_hub, and: pydantic, pydantic_core, annotated_types,
typing_inspection, typing_extensions, orjson, zstandard, isal, backports.zstd, cloudpickle,
open_clip_torch, ftfy, wcwidth.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import gpu_images  # noqa: E402
import gpu_language  # noqa: E402
import torch  # noqa: E402
from gpu_run import Run  # noqa: E402
from rows import BUILD, Rows  # noqa: E402


def machine() -> str:
    """The device's name and what the figures depend on."""
    if not torch.cuda.is_available():
        return f"{platform.machine()}, {os.cpu_count()} cores, no GPU; torch {torch.__version__}"
    about = torch.cuda.get_device_properties(0)
    cudnn = torch.backends.cudnn.version()
    return (
        f"{about.name}, {about.total_memory / 1e9:.0f} GB, {os.cpu_count()} cores; "
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=530.0, help="of the whole run")
    parser.add_argument("--only", nargs="+", default=[], help="rows whose name holds a word")
    parser.add_argument("--dry", action="store_true", help="toy sizes: does it run at all?")
    parser.add_argument("--out", type=Path, help="folder of the report")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one process; some machines have no network
    folder = arguments.out or Path(os.environ.get("OUT") or BUILD)
    rows = Rows("gpu-dry" if arguments.dry else "gpu", folder=folder)
    rows.machine = machine()
    print(rows.machine, flush=True)
    if arguments.dry:
        torch.set_num_threads(1)
    run = Run(rows, seconds=arguments.seconds, dry=arguments.dry, only=arguments.only)
    gpu_language.correctness(run)
    gpu_language.training(run, ("final",))
    gpu_language.core(run, "400m-1x")
    gpu_images.near_targets(run)
    gpu_images.training(run)
    gpu_images.scoring(run)
    gpu_language.core(run, "1b-1x")
    gpu_language.training(run, ("plain", "chunked"))
    gpu_images.training(run, compiled=True)
    rows.add(
        "quality_score, documents",
        None,
        "documents/s",
        reason="fastText runs on CPUs; bench_text.py measures it",
    )
    rows.close()


if __name__ == "__main__":
    main()
