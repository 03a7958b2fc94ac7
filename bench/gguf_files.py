"""Loading of GGUF files (seconds, peak memory, tokens beside llama.cpp's) and packing (error, speed) of each format.

    python bench/gguf_files.py [FILE.gguf …]     # files besides smollm2

Times are those of `minseek.load` alone, after all imports and with the kernels built, in a process of its own, the file
in the system's cache: "first" builds the tokenizer, "second" finds it in the cache folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import kept, machine, table, write

from minseek.models import alias_file
from minseek.native import cache_folder
from minseek.quant import BLOCK_FORMATS, pack

_LOAD = """
import json, sys, time, torch, transformers
import minseek
from minseek.models.loading import load
from minseek.models.process_memory import peak_resident_bytes, resident_bytes
from minseek.native import native_status
from minseek.models.device import resolve_device
native_status(resolve_device().dtype)
before, start = resident_bytes(), time.perf_counter()
model = minseek.load(sys.argv[1])
seconds = time.perf_counter() - start
text = open(sys.argv[2]).read()
tokens = [model.encode(line) for line in [text, *text.splitlines()]]
print(json.dumps({"seconds": seconds, "imports_bytes": before, "peak_bytes": peak_resident_bytes(),
                  "weight_bytes": model.weight_bytes, "tokens": tokens}))
"""
_LLAMA_CPP = """
import json, sys
from llama_cpp import Llama
model, text = Llama(sys.argv[1], vocab_only=True, verbose=False), open(sys.argv[2]).read()
lines = [text, *text.splitlines()]
print(json.dumps([model.tokenize(line.encode(), add_bos=False, special=True) for line in lines]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="GGUF files besides smollm2")
    parser.add_argument("--report", action="store_true", help="print the tables of the kept figures")
    args = parser.parse_args()
    figures = kept("gguf_files") if args.report else {}
    if not args.report:
        file = alias_file("smollm2")
        files = [*([file] if file else []), *args.files]
        figures = {"loading": [loading(path) for path in files], "packing": [packing(name) for name in BLOCK_FORMATS]}
        write("gguf_files", figures)
    for key, value in machine().items():
        print(f"{key}: {value}")
    print(
        table(
            "Loading",
            ["file", "MB", "first s", "second s", "peak MB", "of it imports", "lines as llama.cpp's"],
            [
                [
                    row["file"],
                    f"{row['bytes'] / 1e6:.0f}",
                    f"{row['first']:.2f}",
                    f"{row['second']:.2f}",
                    f"{row['peak_bytes'] / 1e6:.0f}",
                    f"{row['imports_bytes'] / 1e6:.0f}",
                    row["equal_lines"],
                ]
                for row in figures["loading"]
            ],
        )
    )
    print(
        table(
            "Packing Gaussian weights",
            ["format", "bits", "error %", "million weights a second"],
            [
                [row["format"], f"{row['bits']:.2f}", f"{row['error']:.2f}", f"{row['speed']:.0f}"]
                for row in figures["packing"]
            ],
        )
    )


def loading(file: Path) -> dict[str, Any]:
    """Seconds of the first and of the second load, peak memory, and lines with llama.cpp's tokens."""
    from tests.helpers.odd_text import ODD_PAGE

    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.txt"
        page.write_text(ODD_PAGE, newline="")
        os.symlink(cache_folder() / "kernels", Path(folder) / "kernels")
        environment = os.environ | {"MINSEEK_CACHE": folder, "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-c", _LOAD, str(file), str(page)]
        _run(command, environment)  # the file comes into the system's cache
        for kept_tokenizer in (Path(folder) / "tokenizers").iterdir():
            kept_tokenizer.unlink()
        first, second = (_run(command, environment) for _ in range(2))
        peer, equal = cache_folder() / "peers" / "llama" / "bin" / "python", "not measured"
        if peer.exists():
            theirs = _run([str(peer), "-c", _LLAMA_CPP, str(file), str(page)], dict(os.environ))
            same = sum(ours == other for ours, other in zip(second["tokens"], theirs, strict=True))
            equal = f"{same} of {len(theirs)}"
    return {
        "file": file.name,
        "bytes": file.stat().st_size,
        "first": first["seconds"],
        "second": second["seconds"],
        "peak_bytes": max(first["peak_bytes"], second["peak_bytes"]),
        "imports_bytes": second["imports_bytes"],
        "weight_bytes": second["weight_bytes"],
        "equal_lines": equal,
    }


def packing(name: str) -> dict[str, Any]:
    """Relative RMS error of Gaussian weights in a format, and how fast they are packed."""
    form = BLOCK_FORMATS[name]
    x = (np.random.default_rng(0).standard_normal((512, 4096)) * 0.05).astype(np.float32)
    start = time.perf_counter()
    packed = pack(x, form)
    seconds = time.perf_counter() - start
    error = np.sqrt(np.mean((packed.dequantize() - x) ** 2) / np.mean(x**2))
    return {"format": name, "bits": form.bits_per_weight, "error": 100 * float(error), "speed": x.size / seconds / 1e6}


def _run(command: list[str], environment: dict[str, str]) -> Any:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
