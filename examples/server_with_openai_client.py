"""Start `minseek serve` and talk to it with the openai client: an answer, its thoughts, and a stream.

Needs the client: pip install openai
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from openai import OpenAI

QUESTION = "Compute (8+4)*3-6."


@contextmanager
def server() -> Iterator[str]:
    """Serve the embedded model on a free port; the address while it runs."""
    command = [sys.executable, "-m", "minseek", "serve", "-m", "tiny", "--slots", "2", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        address = next((found[0] for line in process.stderr if (found := re.search(r"http://[\d.:]+", line))), None)
        if address is None:
            raise SystemExit(f"the server did not start: exit code {process.wait()}")
        yield address
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    with server() as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="unused")
        messages = [{"role": "user", "content": QUESTION}]
        thinking = {"thinking": {"strategy": "min-seek", "thoughts": 4}}
        answer = client.chat.completions.create(model="tiny", messages=messages, seed=0, extra_body=thinking)
        print("answer:", answer.choices[0].message.content)
        print("thoughts:", [thought["tokens"] for thought in answer.minseek["thoughts"]], "tokens each")
        print("peak cache:", answer.minseek["kv_bytes_peak"], "bytes")
        stream = client.chat.completions.create(
            model="tiny", messages=messages, seed=0, stream=True, reasoning_effort="low"
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        print("streamed:", "".join(pieces))


if __name__ == "__main__":
    main()
