"""The page of the server in headless Chromium, against a real server with a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

import minseek
from minseek.engine import FinishedJob
from minseek.reasoning.strategies import STRATEGIES
from minseek.serve.server_settings import ServerSettings
from minseek.units import format_bytes
from tests.helpers.serving import Running, serving, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
QUESTION = "how many ants make 2?"
PAGE = Path(minseek.__file__).parent / "serve" / "page"
STATES = {"first": "first", "kept": "kept", "gone": "dropped"}


@pytest.fixture(scope="module")
def running(tiny: minseek.Model) -> Iterator[Running]:
    with serving(tiny) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        sandboxed = os.getuid() != 0  # Chromium's sandbox does not work for root
        flags = [*FLAGS.split(), *([] if sandboxed else ["--no-sandbox"])]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags, chromium_sandbox=sandboxed)
        yield browser
        browser.close()


@pytest.fixture(params=["light"])
def page(browser: Browser, running: Running, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, opened; it must never ask another host for anything, nor have an error in its console."""
    context = browser.new_context(color_scheme=request.param, viewport={"width": 1200, "height": 900})
    page, complaints = context.new_page(), list[str]()
    page.set_default_timeout(20_000)
    page.on("request", lambda r: r.url.startswith(running.url + "/") or complaints.append(r.url))
    page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(running.url)
    expect(page.locator("#server")).to_contain_text(running.service.name)
    yield page
    context.close()
    assert complaints == []


def ask(page: Page, thoughts: int = 4, question: str = QUESTION, strategy: str = "Min-Seek") -> None:
    """Fill the form, and ask as a person would."""
    page.get_by_label(strategy).check()
    page.get_by_label("Thoughts, as a number").fill(str(thoughts))
    page.get_by_text("More").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask").click()


def ended(page: Page, phase: str = "Done.") -> None:
    expect(page.get_by_role("status")).to_have_text(phase, timeout=60_000)
    expect(page.locator("#go")).to_have_text("Ask")


def ask_api(running: Running, thoughts: int = 4) -> tuple[str, list[dict[str, Any]]]:
    """The API's response to the same request: the answer, and its stream's notes on thoughts and cache."""
    how = {"strategy": "min-seek", "thoughts": thoughts, "rule": "shortest"}
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "thinking": how, "stream": True}
    lines = running.http().post("/v1/chat/completions", json=body).text.splitlines()
    chunks = [json.loads(line[5:]) for line in lines if line.startswith("data: {")]
    answer = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    return answer, [chunk["minseek"] for chunk in chunks]


def bar(page: Page, index: int) -> Locator:
    return page.locator(f"[aria-controls=thought-{index}]")


def text_of(page: Page, selector: str) -> str:
    return str(page.locator(selector).evaluate("element => element.textContent"))


def scripted(page: Page, *events: dict[str, Any], status: int = 200) -> None:
    """Answer the next questions with these chunks, or with an error."""
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    body = stream if status == 200 else json.dumps(events[0])
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=status, body=body))


# Contents


def test_the_page_has_every_strategy(page: Page) -> None:
    values = page.locator("input[name=strategy]").evaluate_all("radios => radios.map(radio => radio.value)")
    assert sorted(values) == sorted(STRATEGIES)


def test_fresh_thoughts_leave_once_they_have_voted(page: Page) -> None:
    ask(page, strategy="Fresh")
    ended(page)
    first, *dropped, last = [row.inner_text() for row in page.locator("#list > li").get_by_role("button").all()]
    assert dropped
    assert first.endswith("first")
    assert last.endswith("kept")
    assert all(text.endswith("dropped: voted") for text in dropped)


def test_the_page_shows_the_response_of_the_server(page: Page, running: Running) -> None:
    answer, notes = ask_api(running)
    assert answer
    ask(page)
    ended(page)
    assert text_of(page, "#answer") == answer
    thoughts = notes[-1]["thoughts"]
    rows = page.locator("#list > li")
    expect(rows).to_have_count(5)
    for row, thought in zip(rows.all(), thoughts, strict=True):
        state = "first" if thought["index"] == 0 else "kept" if thought["kept"] else "dropped"
        why = ": longer" if state == "dropped" else ""
        name = f"Thought {thought['index']} {thought['tokens']:,} · {state}{why}"
        expect(row.get_by_role("button")).to_have_accessible_name(name)
        assert STATES[row.locator("i").get_attribute("class") or ""] == state
    longest = max(thought["tokens"] for thought in thoughts)
    share = "bar => bar.offsetWidth / bar.parentNode.offsetWidth"
    widths = [row.locator("i").evaluate(share) for row in rows.all()]
    assert widths == pytest.approx([thought["tokens"] / longest for thought in thoughts], abs=0.02)

    last = [note for note in notes if "kv_tokens" in note][-1]["kv_tokens"]
    dropped = sum(thought["tokens"] for thought in thoughts if not thought["kept"])
    assert dropped, "a run in which nothing is dropped shows little"
    meter = page.get_by_role("meter", name="Tokens in the cache")
    assert meter.get_attribute("aria-valuenow") == str(last)
    assert meter.get_attribute("aria-valuemax") == str(running.service.plan.slot.capacity)
    sizes = {name: int(text_of(page, f"#{name}-size").split()[0].replace(",", "")) for name in SIZES}
    assert sizes["peak"] == notes[-1]["kv_tokens_peak"]
    assert sizes["ghost"] == max(last + dropped, sizes["peak"])
    assert sizes["base"] + sizes["kept"] + sizes["current"] == last
    assert sizes["base"] == next(n for n in notes if n["type"] == "thought_ended")["kv_tokens"]
    assert sizes["kept"] == sum(t["tokens"] for t in thoughts[1:] if t["kept"])


SIZES = ("base", "kept", "current", "peak", "ghost")


def test_a_bar_opens_to_the_text_of_its_thought(page: Page, running: Running) -> None:
    _, notes = ask_api(running)
    ask(page)
    ended(page)
    second = bar(page, 2)
    text = page.locator("#thought-2")
    expect(text).to_be_hidden()
    second.press("Enter")
    expect(second).to_have_attribute("aria-expanded", "true")
    shown = text_of(page, "#thought-2")
    assert shown.startswith(notes[-1]["thoughts"][2]["text"].strip())
    assert "— dropped:" in shown or "— kept:" in shown
    second.click()
    expect(text).to_be_hidden()


def test_a_box_is_marked_and_nothing_is_taken_for_html(page: Page) -> None:
    text = r"<img src=x onerror=alert(1)> so \boxed{\frac{1}{2}} & \boxed{3"
    note = {"type": "answer", "kv_tokens": 9, "kv_bytes": 9}
    end = {"type": "finished", "thoughts": [], "kv_tokens_peak": 9, "seconds": 1.0, "tokens_per_second": 9.0}
    pieces = [text[:30], text[30:41], text[41:]]
    chunks = [{"choices": [{"delta": {"content": piece}}], "minseek": note} for piece in pieces]
    scripted(page, *chunks, {"choices": [{"delta": {}}], "minseek": end})
    ask(page)
    ended(page)
    assert text_of(page, "#answer") == text
    assert page.locator("#answer mark").all_text_contents() == [r"\boxed{\frac{1}{2}}", r"\boxed{3"]
    assert page.locator("#answer img").count() == 0


def thought_notes(
    index: int, tokens: int, before: int, ended_by: str = "closed", kept: bool = False, written: int = 0
) -> list[dict[str, Any]]:
    """A thought of so many tokens, or `written` ones of which only these are left, after a cache of `before`."""
    cached = before + (tokens if kept else 0)
    notes: list[dict[str, Any]] = [
        {"type": "thought_started", "index": index, "word": "Wait"},
        {"type": "thought", "index": index, "tokens": written or tokens, "kv_tokens": before + (written or tokens)},
        {"type": "thought_ended", "index": index, "tokens": tokens, "kept": kept, "dropped": None, "why": "so it is",
         "ended_by": ended_by, "kv_tokens": cached},
    ]  # fmt: skip
    return [{"choices": [{"delta": {"reasoning_content": "text"}}], "minseek": note} for note in notes]


def finish(thoughts: int, peak: int) -> list[dict[str, Any]]:
    texts = [{"index": index, "text": "text"} for index in range(thoughts)]
    answer = {"type": "answer", "kv_tokens": 130}
    end = {"type": "finished", "thoughts": texts, "kv_tokens_peak": peak, "seconds": 1.0, "tokens_per_second": 9.0}
    return [
        {"choices": [{"delta": {"content": "7"}}], "minseek": answer},
        {"choices": [{"delta": {}}], "minseek": end},
    ]


def test_dropped_thoughts_say_why_and_the_peak_is_never_above_the_size_without_dropping(page: Page) -> None:
    notes = [*thought_notes(0, 50, 20, kept=True), *thought_notes(1, 30, 70, kept=True)]
    notes += [*thought_notes(2, 40, 100), *thought_notes(3, 25, 100, "context")]
    notes += thought_notes(4, 20, 100, "loop", written=300)
    scripted(page, *notes, *finish(5, peak=400))
    ask(page)
    ended(page)
    labels = [label.rpartition(" · ")[2] for label in page.locator("#list button").all_text_contents()]
    assert labels == ["first", "kept", "dropped: longer", "dropped: cut off", "dropped: loop"]
    peak, ghost = (int(text_of(page, f"#{name}-size").split()[0]) for name in ("peak", "ghost"))
    assert peak == 400
    assert ghost == 130 + 40 + 25 + 300
    scripted(page, *notes, *finish(5, peak=800))  # what the notes have not shown was in the cache all the same
    page.get_by_role("button", name="Ask").click()
    ended(page)
    assert text_of(page, "#ghost-size").split()[0] == text_of(page, "#peak-size").split()[0] == "800"


def test_nothing_grows_below_the_page(page: Page) -> None:
    scripted(page, *thought_notes(0, 50, 20, kept=True), *finish(1, peak=400))
    ask(page)
    ended(page)
    height = "document.documentElement.scrollHeight"
    before = page.evaluate(height)
    scripted(page, *(note for n in range(61) for note in thought_notes(n, 50, 20, kept=n == 0)), *finish(61, peak=400))
    page.get_by_role("button", name="Ask").click()
    ended(page)
    expect(page.locator("#list > li")).to_have_count(61)
    listed = page.locator("#list").bounding_box()
    assert listed is not None
    assert page.evaluate(height) <= before + listed["height"]
    bottom = page.evaluate(
        "Math.max(...[...document.querySelectorAll('section')].map((e) => e.getBoundingClientRect().bottom))"
    )
    assert page.evaluate(height) <= max(900, bottom + page.evaluate("scrollY") + 40)


def test_sizes_are_those_of_the_command_line(page: Page, running: Running) -> None:
    token_bytes = running.service.token_bytes
    for cached in (1, 2, 99, 434, 435, 1302, 43403, 999_999):
        scripted(page, {"choices": [{"delta": {"content": "7"}}], "minseek": {"type": "answer", "kv_tokens": cached}})
        page.get_by_role("button", name="Ask").click()
        ended(page)
        assert text_of(page, "#peak-size") == f"{cached:,} tokens · {format_bytes(cached * token_bytes)}"


@pytest.mark.parametrize("text", ["", "  \n "])
def test_a_blank_question_is_answered_with_a_sentence(page: Page, text: str) -> None:
    page.get_by_label("Question").fill(text)
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("alert")).to_have_text("Write a question first.")
    expect(page.locator("#go")).to_have_text("Ask")
    ask(page)
    ended(page)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_it_opens_with_a_question_that_the_model_answers_right(browser: Browser) -> None:
    with serving(minseek.load("tiny", device="cpu"), slots=1) as server:
        page = browser.new_page()
        page.goto(server.url)
        expect(page.get_by_label("Question")).to_have_value("Compute (8+4)*3-6.")
        expect(page.get_by_label("Min-Seek")).to_be_checked()
        page.get_by_text("More").click()
        page.get_by_label("Seed").fill("0")
        page.get_by_role("button", name="Ask").click()
        ended(page)
        expect(page.locator("#answer mark")).to_have_text(r"\boxed{30}")
        assert page.locator("#list > li").count() > 1
        page.context.close()


# Stopping, and errors


@pytest.fixture
def slowly(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that takes its time, as larger ones do: a run to be stopped must still be running."""
    engine = running.service.engine_thread.engine
    step = engine.step

    def slow_step() -> list[FinishedJob]:
        time.sleep(0.02)
        return step()

    monkeypatch.setattr(engine, "step", slow_step)


@pytest.mark.usefixtures("slowly")
def test_stop_frees_the_slot(page: Page, running: Running) -> None:
    ask(page, thoughts=100_000)
    expect(bar(page, 2)).to_be_visible()
    assert running.metric("minseek_slots_used") == 1
    page.get_by_label("Question").fill("")  # an empty question must not stand in the way
    page.get_by_role("button", name="Stop").click()
    ended(page, "Stopped.")
    wait_for(lambda: running.metric("minseek_slots_used") == 0, seconds=1)
    expect(page.locator("#list > li").last).to_contain_text("stopped")
    seconds = text_of(page, "#seconds")
    bar(page, 1).click()
    assert text_of(page, "#seconds") == seconds, "time goes on after the end"


def test_errors_are_one_sentence(page: Page) -> None:
    scripted(page, {"choices": [{"delta": {}}], "minseek": None}, {"error": {"message": "it broke: ask again"}})
    ask(page)
    expect(page.get_by_role("alert")).to_have_text("it broke: ask again")
    page.unroute("**/*")
    ended(page, "")


def test_an_error_of_the_server_is_shown(browser: Browser, running: Running) -> None:
    page = browser.new_page()
    page.goto(running.url)
    ask(page, question="word " * 500)
    expect(page.get_by_role("alert")).to_contain_text("a slot holds 512")
    ended(page, "")
    page.context.close()


def test_the_page_asks_for_the_key_and_keeps_it_in_the_tab(browser: Browser, tiny: minseek.Model) -> None:
    with serving(tiny, ServerSettings(api_key="open sesame"), slots=1) as locked:
        page = browser.new_page()
        page.goto(locked.url)
        expect(page.get_by_role("alert")).to_contain_text("API key")
        key = page.get_by_label("API key")
        key.fill("open sesame")
        key.press("Tab")
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.locator("#server")).to_contain_text(locked.service.name)
        ask(page)
        ended(page)
        assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
        page.context.close()


# For everybody


@pytest.mark.usefixtures("slowly")
def test_by_keyboard_alone(page: Page, running: Running) -> None:
    press, typed = page.keyboard.press, page.keyboard.type
    expect(page.get_by_label("Question")).to_be_focused()
    typed("first line")
    press("Shift+Enter")
    typed("second line")
    seen_focus(page)
    press("Tab")
    press("ArrowRight")  # to another strategy, whichever was the server's
    while not page.get_by_label("Min-Seek").is_checked():
        press("ArrowRight")
    seen_focus(page)
    press("Tab")
    expect(page.get_by_label("Thoughts after the first", exact=True)).to_be_focused()
    press("End")
    expect(page.get_by_label("Thoughts, as a number")).to_have_value("50")
    press("Tab")
    typed("1000")
    press("Tab")
    press("Enter")  # more
    for _ in range(4):
        press("Tab")
        seen_focus(page)
    press("Tab")
    expect(page.get_by_role("button", name="Ask")).to_be_focused()
    press("Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_focused()
    expect(bar(page, 1)).to_be_visible()
    press("Tab")
    for _ in range(10):
        if bar(page, 0).evaluate("bar => bar === document.activeElement"):
            break
        press("Tab")
    seen_focus(page)
    press("Space")
    expect(page.locator("#thought-0")).to_be_visible()
    press("Escape")
    ended(page, "Stopped.")
    assert page.get_by_label("Question").input_value() == "first line\nsecond line"


def seen_focus(page: Page) -> None:
    """The focused element is outlined; for a pill, its visible part."""
    outline = page.evaluate(
        "() => { const at = document.activeElement; const drawn = at.type === 'radio' ? at.nextElementSibling : at;"
        "const style = getComputedStyle(drawn); return [style.outlineStyle, parseFloat(style.outlineWidth)]; }"
    )
    assert outline[0] not in ("none", "")
    assert outline[1] >= 2


def test_every_control_has_a_name(page: Page) -> None:
    ask(page)
    ended(page)
    nameless = page.evaluate(
        "() => [...document.querySelectorAll('input, select, textarea, button, summary, [role=meter]')].filter((e) =>"
        "!(e.ariaLabel || [...(e.labels ?? [])].some((l) => l.textContent.trim()) || e.textContent.trim()))"
        ".map((e) => e.outerHTML)"
    )
    assert nameless == []
    assert page.evaluate("document.documentElement.lang") == "en"
    headings = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((h) => +h.tagName[1])")
    assert headings[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(headings))


# Every text that is seen against what is behind it, and what must be seen without text (WCAG 2.2: 4.5 and 3).
CONTRAST = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (c) => ((c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.body.querySelectorAll('*')) {
    if (!e.checkVisibility() || e.closest(':disabled')) continue;
    const style = getComputedStyle(e);
    if ([...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
      found.push([e.textContent.trim().slice(0, 20), ratio(parse(style.color), behind(e)), 4.5]);
    if (e.placeholder)
      found.push([e.placeholder, ratio(parse(getComputedStyle(e, '::placeholder').color), behind(e)), 4.5]);
    if (e.matches('textarea, input[type=number], select, .choices span'))
      found.push(['border of ' + e.tagName, ratio(parse(style.borderColor), behind(e.parentElement)), 3]);
    if (e.matches('i.first, i.kept, #peak'))
      found.push([e.className + e.id, ratio(parse(style.backgroundColor), behind(e.parentElement)), 3]);
  }
  for (const name of ['first', 'kept', 'running', 'gone']) {
    const probe = document.body.appendChild(document.createElement('i'));
    probe.style.color = `var(--${name})`;
    found.push([name, ratio(parse(getComputedStyle(probe).color), behind(document.querySelector('section'))), 3]);
    probe.remove();
  }
  return found;
}"""


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_colors_can_be_read_in_light_and_dark(page: Page, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    ask(page)
    ended(page)
    bar(page, 1).click()
    found = page.evaluate(CONTRAST)
    assert len(found) > 40
    assert [pair for pair in found if pair[1] < pair[2]] == []
    scheme = request.node.callspec.params["page"]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground) < 3 * 64) == (scheme == "dark")
    folder = Path(os.environ.get("MINSEEK_ARTIFACTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    for width, height in ((1200, 900), (360, 780)):
        page.set_viewport_size({"width": width, "height": height})
        page.screenshot(path=folder / f"page-{scheme}-{width}.png", full_page=True)


@pytest.mark.parametrize("width", [360, 1200])
def test_no_width_scrolls_sideways(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 780})
    too_wide = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(too_wide) <= 0
    ask(page, question="x" * 300)
    ended(page)
    bar(page, 0).click()
    assert page.evaluate(too_wide) <= 0
    outside = page.evaluate(
        "() => [...document.querySelectorAll('main *')].filter((e) => e.checkVisibility() &&"
        "e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('#meter, svg')).map((e) => e.outerHTML)"
    )
    assert outside == []


def test_reduced_motion_is_respected(browser: Browser, running: Running) -> None:
    page = browser.new_page(reduced_motion="reduce")
    page.goto(running.url)
    ask(page)
    ended(page)
    assert page.evaluate("getComputedStyle(document.querySelector('.bar i')).transitionDuration") == "0s"
    page.context.close()


def test_it_is_small_and_complete() -> None:
    files = {file.name: file.read_text() for file in PAGE.iterdir()}
    assert sum(len(text.encode()) for text in files.values()) < 20_000
    for name, text in files.items():
        assert "://" not in text.replace("http://www.w3.org/2000/svg", ""), f"{name} names another host"
        for risk in ("innerHTML", "outerHTML", "insertAdjacent", "eval(", "localStorage", "document.write"):
            assert risk not in text
