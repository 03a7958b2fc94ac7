"""64 clients at once for some seconds; bench/serve_load.py does the same for minutes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from serve_clients import Load
from serve_load import measure, report
from serve_requests import valid_requests

pytestmark = pytest.mark.slow


def test_under_load_every_answer_is_right_and_memory_is_flat(tiny_folders: dict[str, Path]) -> None:
    found = measure(str(tiny_folders["llama"]), seconds=10, warm_up=3, kinds=16, max_tokens=40)
    statuses = found["statuses"]
    assert found["mistakes_count"] == 0, found["mistakes"]
    assert {name for name in statuses if name.startswith("valid")} <= {"valid, 200", "valid, 429"}
    assert statuses["valid, 200"] >= 30
    assert statuses["wrong, 400"] >= 10
    assert found["left_midway"] > 0
    assert found["slots_used_afterwards"] == found["queue_afterwards"] == 0
    assert found["rss_growth"] < 0.05
    assert "64 clients" in report(found)


def test_a_wrong_answer_and_the_text_of_another_are_noticed() -> None:
    request, other = valid_requests(2, max_tokens=9)
    load = Load([request, other], {request.marker: [("", "right", "stop")]}, slot_tokens=400)
    load.check(request, [("", "right", "stop")])
    assert load.tally.mistakes == []
    load.check(request, [("", "right", "length")])
    assert len(load.tally.mistakes) == 1
    load.check(request, [("", f"right {other.marker}", "stop")])
    assert len(load.tally.mistakes) == 3
