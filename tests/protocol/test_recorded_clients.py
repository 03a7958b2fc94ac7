"""Bodies that clients really send, answered by the server and run from a batch file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import minseek
from minseek.batch import run_file
from minseek.serve.server_settings import ServerSettings
from tests.helpers.recorded_bodies import CHAT, RECORDED
from tests.helpers.serving import Running, serving

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def running(tiny: minseek.Model) -> Iterator[Running]:
    with serving(tiny, ServerSettings(max_completion_tokens=24)) as server:
        yield server


@pytest.mark.parametrize("client", RECORDED)
def test_the_server_answers_what_clients_send(running: Running, client: str) -> None:
    with running.http() as http:
        for path, body in RECORDED[client]:
            response = http.post(path, json={"model": running.service.name, **body})
            assert response.status_code == 200, (body, response.text)
            if body.get("stream"):
                assert response.text.endswith("data: [DONE]\n\n"), (body, response.text)
            else:
                assert response.json()["choices"], body


@pytest.mark.parametrize("client", RECORDED)
def test_a_batch_file_runs_what_clients_send(
    tiny: minseek.Model, running: Running, client: str, tmp_path: Path
) -> None:
    lines: list[dict[str, Any]] = []
    for index, (path, body) in enumerate(RECORDED[client]):
        whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        whole = {"model": running.service.name, **whole}
        lines.append({"custom_id": f"o{index}", "method": "POST", "url": path, "body": whole})
        lines.append({"custom_id": f"a{index}", "method": "POST", "url": path.removeprefix("/v1"), "body": whole})
        lines.append({"id": f"p{index}", **whole})
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_file(tiny, tmp_path / "in.jsonl", tmp_path / "out.jsonl", max_new_tokens=24)
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(records) == len(lines)
    assert [record for record in records if record.get("error")] == []
    kinds = {r["custom_id"]: r["response"]["body"]["object"] for r in records if "custom_id" in r}
    for index, (path, _) in enumerate(RECORDED[client]):
        assert kinds[f"o{index}"] == kinds[f"a{index}"] == ("chat.completion" if path == CHAT else "text_completion")
