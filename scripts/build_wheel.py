"""A wheel that carries the kernels, so that no compiler is needed where it is installed.

    make wheel        or: .venv/bin/python scripts/build_wheel.py [--machine aarch64 --compiler aarch64-linux-gnu-gcc]

The pure wheel is built first; then every library is compiled for every level (src/minseek/native/prebuilt.py) and put
into it with GCC's OpenMP runtime, and auditwheel gives it the tag of the oldest Linux whose glibc has all symbols used.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from minseek.cluster.build import KERNELS as CLUSTER
from minseek.lowbit.native import KERNELS as LOWBIT
from minseek.native.forward import KERNELS as FORWARD
from minseek.native.isa import NAMES
from minseek.native.prebuilt import FOLDER, prebuild

ROOT = Path(__file__).parents[1]
LIBRARIES = (*FORWARD.values(), *CLUSTER.values(), LOWBIT)
NOTICE = """libgomp.so.1 is the OpenMP runtime of GCC, under GPL-3.0 with the GCC Runtime Library Exception 3.1; its
sources are at https://gcc.gnu.org. It is used where no other copy is loaded before.
"""


def openmp_runtime(machine: str, compiler: str) -> Path:
    """The copy in PyTorch's wheel, made for old versions of glibc; the compiler's where there is none."""
    torch = importlib.util.find_spec("torch")
    if torch is not None and torch.origin is not None and machine == platform.machine():
        carried = Path(torch.origin).parent / "lib" / "libgomp.so.1"
        if carried.exists():
            return carried
    found = subprocess.run([compiler, "-print-file-name=libgomp.so.1"], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip()).resolve(strict=True)


def add_kernels(package: Path, machine: str, compiler: str, levels: Sequence[str]) -> None:
    """Compile all libraries into an unpacked wheel."""
    folder = package / FOLDER.relative_to(FOLDER.parents[1])
    folder.mkdir()
    shutil.copyfile(openmp_runtime(machine, compiler), folder / "libgomp.so.1")
    (folder / "NOTICE").write_text(NOTICE)

    def compile_one(job: tuple[int, str]) -> None:
        prebuild(LIBRARIES[job[0]], job[1], folder, compiler, lambda command: subprocess.run(command, check=True))

    jobs = [(index, level) for level in levels for index in range(len(LIBRARIES))]
    with ThreadPoolExecutor() as pool:
        list(pool.map(compile_one, jobs))


def set_tag(unpacked: Path, machine: str) -> None:
    """Declare the wheel to be for one kind of machine."""
    (file,) = unpacked.glob("*.dist-info/WHEEL")
    text = file.read_text().replace("Root-Is-Purelib: true", "Root-Is-Purelib: false")
    file.write_text(text.replace("Tag: py3-none-any", f"Tag: py3-none-linux_{machine}"))


def build(machine: str, compiler: str, out: Path, levels: Sequence[str]) -> Path:
    """Build the wheel into a folder; its path."""

    def python(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", *arguments], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)

    before = set(out.glob("*.whl"))
    with tempfile.TemporaryDirectory() as temporary:
        pure, unpacked, packed = (Path(temporary) / name for name in ("pure", "unpacked", "packed"))
        packed.mkdir()
        python("hatchling", "build", "-t", "wheel", "-d", str(pure))
        with zipfile.ZipFile(next(pure.glob("*.whl"))) as wheel:
            wheel.extractall(unpacked)
        add_kernels(unpacked / "minseek", machine, compiler, levels)
        set_tag(unpacked, machine)
        python("wheel", "pack", str(unpacked), "-d", str(packed))
        python("auditwheel", "repair", "--plat", "auto", "-w", str(out), str(next(packed.glob("*.whl"))))
    return max(set(out.glob("*.whl")) - before or before, key=lambda file: file.stat().st_mtime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", default=platform.machine(), choices=("x86_64", "aarch64"))
    parser.add_argument("--compiler", default="gcc", help="GCC or Clang for that machine (default: gcc)")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the wheel (default: dist)")
    parser.add_argument("--levels", nargs="+", choices=NAMES, default=NAMES, help="of x86_64 (default: all)")
    args = parser.parse_args()
    levels = args.levels if args.machine == "x86_64" else (args.machine,)
    wheel = build(args.machine, args.compiler, args.out, levels)
    print(f"{wheel} ({wheel.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
