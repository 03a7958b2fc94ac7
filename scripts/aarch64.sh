#!/bin/sh
# Compiles all kernels for aarch64 into a wheel and runs their tests on it, with PyTorch, under qemu-user.
#
#     make aarch64      first: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
#
# Everything lies in build/aarch64: Python from Debian's arm64 packages (unpacked, not installed), wheels for aarch64
# of what has machine code, and the rest from .venv. 200 MB are fetched once. The tests take some ten minutes.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$PWD/.venv/bin/python}
WORK=$PWD/build/aarch64
ROOT=$WORK/root
mkdir -p "$WORK"

if [ ! -x "$ROOT/usr/bin/python3.11" ]; then
    mkdir -p "$WORK/lists/partial" "$WORK/cache/archives/partial"
    touch "$WORK/status"
    for line in 'APT::Architecture "arm64"' 'APT::Architectures "arm64"' "Dir::State \"$WORK\"" \
        "Dir::State::lists \"$WORK/lists\"" "Dir::State::status \"$WORK/status\"" "Dir::Cache \"$WORK/cache\"" \
        'APT::Install-Recommends "false"' 'APT::Sandbox::User "root"'; do echo "$line;"; done > "$WORK/apt.conf"
    export APT_CONFIG="$WORK/apt.conf"
    apt-get -qq update
    apt-get -qq install -y --download-only python3.11 libgomp1 libstdc++6
    unset APT_CONFIG
    for package in "$WORK"/cache/archives/*.deb; do dpkg-deb -x "$package" "$ROOT"; done
fi

if [ ! -d "$WORK/site" ]; then
    # PyTorch's aarch64 wheels without CUDA end with 2.9; the others are those of .venv.
    packages=$("$PYTHON" - <<'END'
from importlib.metadata import version
names = ("numpy", "scipy", "scikit-learn", "tokenizers", "safetensors", "regex", "pyyaml", "markupsafe")
names += ("hypothesis", "psutil")
print("torch==2.9.0", *(f"{name}=={version(name)}" for name in names))
END
)
    # shellcheck disable=SC2086
    "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --dest "$WORK/wheels" \
        --python-version 3.11 --implementation cp --abi cp311 --abi abi3 \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 $packages
    mkdir "$WORK/site"
    for wheel in "$WORK"/wheels/*.whl; do unzip -q -o "$wheel" -d "$WORK/site"; done
fi

rm -rf "$WORK/dist" "$WORK/minseek"
PATH="$(dirname "$PYTHON"):$PATH" "$PYTHON" scripts/build_wheel.py \
    --machine aarch64 --compiler aarch64-linux-gnu-gcc --out "$WORK/dist"
unzip -q "$WORK"/dist/*.whl -d "$WORK/minseek"

packages=$("$PYTHON" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
export PYTHONPATH="$WORK/minseek:$WORK/site:$packages" PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
export MINSEEK_CACHE="$WORK/minseek-cache" OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
run() { # no compiler in PATH: the wheel's kernels, or none
    PATH=/nowhere "$(command -v qemu-aarch64)" -L "$ROOT" "$ROOT/usr/bin/python3.11" "$@"
}
run -c '
import torch
from minseek.native import native_status
status = native_status(torch.bfloat16)
print(torch.__version__, "-", status.reason)
assert status.library is not None and status.reason.startswith("prebuilt")'
# The C side of what tests/native/test_levels.py runs at every level of x86-64.
NAMES="forward or gfloat or gap or sweep or single_move or every_shape or csr or scikit_learn or sparse or float64_as"
NOT="PyTorch or NumPy or older or few_tokens or piece_by_piece or instruction_sets or kl or itakura"
run -m pytest -p pytest_timeout -v -o timeout=1200 -k "($NAMES) and not ($NOT)" \
    tests/cluster/test_optimality.py tests/lowbit/test_rounding.py \
    tests/models/test_forward.py tests/models/test_forward_batch.py
