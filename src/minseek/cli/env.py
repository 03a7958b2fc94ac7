"""``minseek env``: versions, devices and defaults of this machine."""

from __future__ import annotations

import argparse
import platform

from minseek.cli.startup import import_torch
from minseek.units import format_bytes


class EnvCommand:
    """Prints versions, and the default device, dtype and decoding backend with the reason for each."""

    name = "env"
    help = "print versions, and the default device, dtype and decoding backend, with the reasons"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the flag of ``minseek env``."""
        parser.add_argument(
            "--clean", action="store_true", help="remove dense copies of GGUF files that earlier versions kept"
        )

    def run(self, args: argparse.Namespace) -> int:
        """Print one table, or remove old copies."""
        import_torch()
        if args.clean:
            _clean()
            return 0
        import torch
        import transformers
        from rich.console import Console
        from rich.table import Column, Table

        from minseek import __version__
        from minseek.models.device import resolve_device
        from minseek.models.forward.cuda_graphs import uses_cuda_graphs
        from minseek.native import cache_folder, instruction_set, native_status

        placement = resolve_device()
        table = Table("what", Column("is", overflow="fold"), Column("because", overflow="fold"), show_edge=False)
        table.add_row("minseek", __version__, "")
        table.add_row("Python", platform.python_version(), platform.platform())
        table.add_row("torch", torch.__version__, f"{torch.get_num_threads()} threads")
        table.add_row("transformers", transformers.__version__, "")
        table.add_row("device", str(placement.device), placement.device_reason)
        table.add_row("dtype", str(placement.dtype).removeprefix("torch."), placement.dtype_reason)
        if placement.device.type == "cpu":
            status = native_status(placement.dtype)
            table.add_row("decoding", "C" if status.library else "PyTorch", f"{status.reason}; {status.cost}")
        else:
            kind = "PyTorch, in CUDA graphs" if uses_cuda_graphs(placement.device) else "PyTorch"
            table.add_row("decoding", kind, "the weights are not in main memory")
        isa = instruction_set()
        table.add_row("instruction set", isa.name, isa.reason)
        table.add_row("cache folder", str(cache_folder()), "MINSEEK_CACHE, else the user's cache folder")
        from minseek.models.loading.gguf.old_copies import old_copies

        for folder, size in old_copies().items():
            table.add_row("old copy", str(folder), f"{format_bytes(size)} that nothing reads: minseek env --clean")
        Console().print(table)
        return 0


def _clean() -> None:
    from minseek.models.loading.gguf.old_copies import remove_old_copies

    removed = remove_old_copies()
    for folder, size in removed.items():
        print(f"removed {folder}, {format_bytes(size)}")
    noun = "old copy" if len(removed) == 1 else "old copies"
    print(f"{len(removed)} {noun} removed, {format_bytes(sum(removed.values()))}")
