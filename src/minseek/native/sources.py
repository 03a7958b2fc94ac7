"""Sources of kernels, and how they are compiled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_SIMD = Path(__file__).with_name("simd")  # headers for all kernels: vectors as wide as the processor's
_FLAGS = ("-O3", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC", "-std=gnu11")


@dataclass(frozen=True)
class Kernels:
    """Sources that become one library.

    Attributes
    ----------
    name : str
        Beginning of the library's file name; a hash of everything it was built from follows.
    folder : Path
        Folder of the sources and of their own headers. They may include those of `native/simd`, too.
    sources : tuple of str
        Files in `folder`.
    flags : tuple of str
        Additional compiler flags.
    """

    name: str
    folder: Path
    sources: tuple[str, ...]
    flags: tuple[str, ...] = ()

    def file_name(self, *built_with: str) -> str:
        """Name of the library that these sources, these flags and whatever else a build depends on result in."""
        texts = [
            file.read_text()
            for folder in (self.folder, _SIMD)
            for file in sorted(folder.iterdir())
            if file.suffix in (".c", ".h")
        ]
        key = hashlib.sha256("\0".join((*texts, *_FLAGS, *self.flags, *built_with)).encode())
        return f"{self.name}-{key.hexdigest()[:20]}.so"

    def command(self, compiler: str, flags: tuple[str, ...], library: Path) -> list[str]:
        """Command that compiles the library."""
        sources = [str(self.folder / name) for name in self.sources]
        options = (*_FLAGS, *flags, *self.flags, f"-I{_SIMD}")
        return [compiler, *options, *sources, "-o", str(library), "-lm"]
