"""The server against its own OpenAPI description, by schemathesis: every response matches the description."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

import minseek
from minseek.serve.server_settings import ServerSettings
from tests.helpers.serving import Running, serving

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
KEY = "open sesame"
HEADERS = {"Authorization": f"Bearer {KEY}"}
QUIET = settings(
    max_examples=40,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],  # what fails is small enough as it is
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def running(tiny: minseek.Model) -> Iterator[Running]:
    with serving(tiny, ServerSettings(api_key=KEY, max_completion_tokens=24, max_body_bytes=100_000)) as server:
        yield server


def test_nothing_comes_back_that_is_not_described(running: Running, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "run", running.url + "/openapi.json"]
    command += ["--header", f"Authorization: Bearer {KEY}", "--max-examples", "15", "--seed", "1", "--no-color"]
    command += ["--suppress-health-check", "all", "--warnings", "off", "--no-shrink"]
    # No schema can say all that a request may not say, such as how long a prompt may be: see the next test.
    command += ["--exclude-checks", "positive_data_acceptance"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "6 selected / 6 total" in done.stdout
    assert running.service.engine_thread.state == "ok"
    assert running.service.engine_thread.busy == 0


def test_described_requests_are_answered_or_a_field_is_named(running: Running) -> None:
    description = schemathesis.openapi.from_url(running.url + "/openapi.json", headers=HEADERS)
    statuses = Counter[int]()

    @QUIET
    @given(case=description["/v1/chat/completions"]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def send(case: Case) -> None:
        case.body = mended(case.body)
        response = case.call(headers=HEADERS)
        case.validate_response(response, excluded_checks=[positive_data_acceptance], headers=HEADERS)
        statuses[response.status_code] += 1
        if response.status_code == 400:
            assert response.json()["error"]["param"], response.text

    send()
    assert set(statuses) <= {200, 400}
    assert statuses[200] >= 12, "hardly anything was tried of what comes after a request is taken"


def mended(body: Any) -> Any:
    """A request without the fields that hypothesis seldom gets right by chance."""
    body = {name: value for name, value in body.items() if name not in ("model", "thinking", "stream_options")}
    if not body.get("logprobs"):
        body.pop("top_logprobs", None)
    return {**body, "messages": [*body["messages"][:-1], {"role": "user", "content": "how many ants?"}]}
