"""False alarms of the loop detector: texts of people and their programs, read as if a model wrote them.

Files of this Python installation and of this repository, a random sample of each kind, the first 16,000 characters of
each, as tokens of SmolLM2. Prints the files in which a loop is found, and the detector's time a token.
"""

from __future__ import annotations

import argparse
import random
import sysconfig
import time
import warnings
from pathlib import Path

from common import machine

import minseek
from minseek.decode import LoopDetector

FOLDERS = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), Path(__file__).parent.parent / "docs")
KINDS = {"py": 300, "md": 100, "json": 60, "html": 30, "rst": 40, "txt": 60, "js": 20, "csv": 20, "h": 40}
CHARACTERS = 16_000


def sample(kind: str, count: int) -> list[Path]:
    """Random files of a kind that are neither tiny nor huge."""
    files = [path for folder in FOLDERS for path in sorted(Path(folder).rglob(f"*.{kind}"))]
    files = [path for path in files if path.is_file() and 1000 < path.stat().st_size < 400_000]
    return random.Random(0).sample(files, min(count, len(files)))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.simplefilter("ignore")
    encode = minseek.load("smollm2", device="cpu").encode
    files = tokens = 0
    seconds, alarms = 0.0, list[str]()
    for path in (path for kind, count in KINDS.items() for path in sample(kind, count)):
        text = encode(path.read_text(errors="ignore")[:CHARACTERS])
        files, tokens, detector = files + 1, tokens + len(text), LoopDetector()
        began = time.process_time()
        found = next((index for index, token in enumerate(text) if detector.push(token)), None)
        seconds += time.process_time() - began
        if found is not None:
            alarms.append(f"{path.name} at token {found}")
    print(*(f"{key}: {value}" for key, value in machine().items()), sep="\n")
    print(f"{len(alarms)} of {files} files, {tokens:,} tokens, {1e6 * seconds / tokens:.1f} µs a token")
    print(*alarms, sep="\n")


if __name__ == "__main__":
    main()
