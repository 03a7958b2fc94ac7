"""Policies and strategies of a user's own at the command line: the documented module, `--import`, and entry points."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from minseek.cache.policies import POLICIES
from minseek.errors import InputError
from minseek.reasoning.strategies import STRATEGIES, MinSeek, register
from tests.helpers.batch_files import as_lines, plain
from tests.helpers.markdown import ROOT, blocks

pytestmark = pytest.mark.usefixtures("one_thread")
Command = Callable[..., SimpleNamespace]
PAGE = ROOT / "docs" / "extending.md"
SHORT = ("--max-thought-tokens", "8", "--answer-tokens", "8", "--temperature", "0")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with the documented module; what it registers is forgotten afterwards."""
    code = next(block.text for block in blocks(PAGE.read_text()) if block.language == "python")
    (tmp_path / "my_module.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    policies, strategies, modules, path = dict(POLICIES), dict(STRATEGIES), set(sys.modules), list(sys.path)
    yield tmp_path
    for registry, before in ((POLICIES, policies), (STRATEGIES, strategies)):
        registry.clear()
        registry.update(before)  # type: ignore[arg-type]
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    sys.path[:] = path


@pytest.mark.parametrize("flag", [("--import", "my_module"), ("--import=my_module",)])
def test_a_strategy_of_ones_own_answers(tiny_command: Command, folder: Path, flag: tuple[str, ...]) -> None:
    ran = tiny_command(
        "reason", "Why?", *flag, "--strategy", "keep-every:period=3", "--thoughts", "4", "--json", *SHORT
    )
    assert ran.code in (0, 1), ran.err  # a tiny model's answer may be empty
    report = json.loads(ran.out)
    assert report["strategy"] == "keep-every"
    assert [thought["kept"] for thought in report["thoughts"]] == [True, False, False, True, False]
    assert "one of 3 stays" in ran.err


def test_a_policy_of_ones_own_evicts_in_a_batch(tiny_command: Command, folder: Path) -> None:
    (folder / "in.jsonl").write_bytes(as_lines(plain(3, max_tokens=40)))
    flags = ("--cap", "48", "--block", "16", "--temperature", "0", "--import", "my_module")
    ran = tiny_command("batch", "in.jsonl", "out.jsonl", "--policy", "longest-value", *flags)
    assert ran.code == 0, ran.err
    assert "longest-value" in ran.err
    assert len((folder / "out.jsonl").read_text().splitlines()) == 3


def test_thinking_requests_name_it_and_models_lists_it(tiny_command: Command, folder: Path) -> None:
    request = {"id": 1, "prompt": "Why?", "max_tokens": 60, "thinking": {"strategy": "keep-every", "thoughts": 2}}
    (folder / "in.jsonl").write_bytes(as_lines([request]))
    ran = tiny_command("batch", "in.jsonl", "out.jsonl", "--import", "my_module", "--temperature", "0")
    assert ran.code == 0, (folder / "out.jsonl").read_text()
    assert [t["kept"] for t in json.loads((folder / "out.jsonl").read_text())["thoughts"]][:2] == [True, False]
    assert "longest-value" in tiny_command("models", "--import", "my_module").out


def test_it_is_evaluated_with_its_options(tiny_command: Command, folder: Path) -> None:
    (folder / "tasks.jsonl").write_bytes(as_lines([{"id": 1, "prompt": "1+1?", "answer": "none"}]))
    strategies = ("--strategy", "keep-every:period=3", "--strategy", "min-seek", "--thoughts", "0,2")
    ran = tiny_command("eval", "tasks.jsonl", "-o", "out", "--json", "--import", "my_module", *strategies, *SHORT)
    assert ran.code == 0, ran.err
    assert {cell["strategy"] for cell in json.loads(ran.out)["cells"]} == {"keep-every:period=3", "min-seek"}


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("none_such", None, "--import none_such: ModuleNotFoundError: No module named 'none_such'\n"),
        ("broken", "x = 1\nx.y\n", "--import broken: AttributeError: 'int' object has no attribute 'y' (%s, line 2)\n"),
        ("wrong", "def\n", "--import wrong: SyntaxError"),
        ("my_module.py", None, "takes the name of a module, as my_module or my_package.module, not 'my_module.py'"),
        (
            "taken",
            "from dataclasses import dataclass\nfrom minseek.reasoning import MinSeek, register\n"
            "@register\n@dataclass(frozen=True)\nclass Mine(MinSeek):\n    pass\n",
            "the name 'min-seek' belongs to the strategy MinSeek: take another",
        ),
    ],
)
def test_modules_that_cannot_be_imported(
    tiny_command: Command, folder: Path, name: str, code: str | None, said: str
) -> None:
    if code is not None:
        (folder / f"{name}.py").write_text(code)
    ran = tiny_command("plan", "--import", name)
    assert ran.code == 2
    assert (said % (folder / f"{name}.py") if "%s" in said else said) in ran.err
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err


def test_entry_points_need_no_flag_and_broken_ones_are_left_out(
    tiny_command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bad_module.py").write_text("raise RuntimeError('not today')\n")
    for package, module in (("good", "my_module"), ("bad", "bad_module")):
        info = folder / f"{package}_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}-plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[minseek.plugins]\nmine = {module}\n")
    monkeypatch.syspath_prepend(folder)
    ran = tiny_command("reason", "Why?", "--strategy", "keep-every", "--thoughts", "2", "--json", *SHORT)
    assert ran.code in (0, 1), ran.err
    assert json.loads(ran.out)["strategy"] == "keep-every"
    assert "the plugin mine of the package bad-plugin is left out: RuntimeError: not today" in ran.err
    assert "is left out" not in tiny_command("env").err  # which has neither policies nor strategies


def test_flags_and_texts_of_a_strategy(tiny_command: Command) -> None:
    for words, said in (
        ("min-seek:keep=2 --keep 3", "--keep and --strategy min-seek:keep=2 both give keep: leave one out"),
        ("min-seek:keep=many", "the strategy 'min-seek:keep=many' is wrong: keep must be an integer"),
        ("min-seek:depth=2", "cannot read 'depth=2' in the strategy 'min-seek:depth=2'"),
        ("best", "unknown strategy 'best': choose min-seek"),
    ):
        for command in (("reason", "Why?"), ("serve",)):
            ran = tiny_command(*command, "--strategy", *words.split())
            assert ran.code == 2
            assert said in ran.err, ran.err
    ran = tiny_command(
        "reason", "Why?", "--strategy", "min-seek:keep=2,rule=latest", "--thoughts", "3", "--json", *SHORT
    )
    assert [thought["kept"] for thought in json.loads(ran.out)["thoughts"]] == [True, False, True, True]


def test_what_cannot_be_registered() -> None:
    class Bare(MinSeek):
        name = "bare"

    with pytest.raises(InputError, match="Bare is no dataclass"):
        register(Bare)
    assert register(MinSeek) is MinSeek
