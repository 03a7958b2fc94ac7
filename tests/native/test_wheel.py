"""The wheel that carries kernels: used without a compiler, with the results of kernels that are built here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minseek.native import instruction_set

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="a wheel for Linux")]
ROOT = Path(__file__).parents[2]
COMPUTE = """
import numpy as np, torch, minseek
from minseek.cluster import LOKMeans
from minseek.lowbit import e4m3fn, round_to
from minseek.native import native_status
print(minseek.__file__)
print(native_status(torch.float32).reason)
x = np.random.default_rng(0).normal(size=(400, 7))
for dtype in (np.float32, np.float64):
    model = LOKMeans(9, random_state=0).fit(x.astype(dtype))
    print(model.labels_.tolist(), model.cluster_centers_.tolist())
print(round_to(torch.from_numpy(x).float(), e4m3fn).tolist())
model = minseek.load("tiny", device="cpu", dtype="float32")
print(model.backend, minseek.reason(model, "Compute 2+2.", sampling=minseek.Sampling(temperature=0)).tokens)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed, built for this processor's level alone, by way of pip."""
    folder = tmp_path_factory.mktemp("wheel")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    build = ["scripts/build_wheel.py", "--out", str(folder), "--levels", instruction_set().name]
    subprocess.run([sys.executable, *build], check=True, cwd=ROOT, env=environment, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    assert "-manylinux_2_" in wheel.name
    assert wheel.stat().st_size < 12e6
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True)
    return folder / "site"


def lines(source: Path, **environment: str) -> list[str]:
    """Output of a Python that finds minseek in `source`."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("MINSEEK_")}
    done = subprocess.run(
        [sys.executable, "-c", COMPUTE],
        capture_output=True,
        text=True,
        check=True,
        cwd=source,
        env=keep | {"PYTHONPATH": str(source)} | environment,
    )
    return done.stdout.splitlines()


def test_without_a_compiler_the_wheels_kernels_give_the_same_results(installed: Path, tmp_path: Path) -> None:
    file, reason, *carried = lines(installed, PATH="/nowhere", MINSEEK_CACHE=str(tmp_path))
    assert file.startswith(str(installed))
    assert reason == f"prebuilt in the package for {instruction_set().name}"
    assert not (tmp_path / "kernels").exists()
    _, reason, *built = lines(ROOT / "src")
    assert reason.startswith("built by")
    assert carried == built


def test_kernels_of_other_sources_are_not_used(installed: Path, tmp_path: Path) -> None:
    """A source that is newer than the wheel's kernels: they are built, or PyTorch computes."""
    source = installed / "minseek" / "native" / "kernels" / "alloc.h"
    source.write_text(source.read_text() + "\n")
    _, reason, *_ = lines(installed, PATH="/nowhere", MINSEEK_CACHE=str(tmp_path))
    assert reason == "no C compiler (cc, gcc or clang) was found"
