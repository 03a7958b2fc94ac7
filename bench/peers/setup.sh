#!/usr/bin/env bash
# The environment of one peer under ~/.cache/minseek/peers/: bash bench/peers/setup.sh vllm|llama|qtorch
# It does nothing if that is there in these versions. llama.cpp is compiled for this machine (gcc, about 15 minutes on 2 cores).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
peer=${1:-}
case $peer in
vllm | llama | qtorch) ;;
*)
    echo "usage: bash bench/peers/setup.sh vllm|llama|qtorch, not '$peer'" >&2
    exit 2
    ;;
esac
folder=$HOME/.cache/minseek/peers/$peer
wanted=$(sha256sum "$here/$peer.txt" "$here/setup.sh" "$here/amx_tile_config.h" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$folder/ready" 2>/dev/null)" = "$wanted" ]; then
    [ "$peer" = qtorch ] && echo "$folder" || echo "$folder/bin/python"
    exit
fi
if [ "$peer" = qtorch ]; then # runs in this project's own environment, whose PyTorch compiles it (g++ and ninja)
    rm -rf "$folder"
    nice -n 10 "$here/../../.venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-deps \
        --target "$folder" -r "$here/qtorch.txt"
    echo "$wanted" >"$folder/ready"
    echo "$folder"
    exit
fi
"${PYTHON:-python3}" -m venv "$folder"
pip() { nice -n 10 "$folder/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
if [ "$peer" = llama ]; then
    export CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_LLAMAFILE=ON -DLLAVA_BUILD=OFF"
    export CXXFLAGS="-include $here/amx_tile_config.h" CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-$(nproc)}
    pip install --no-deps --no-cache-dir --no-binary llama-cpp-python -r "$here/llama.txt"
else
    pip install --no-deps -r "$here/vllm.txt"
fi
echo "$wanted" >"$folder/ready"
echo "$folder/bin/python"
