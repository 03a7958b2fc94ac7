"""``minseek env``: what this machine gives, and what was chosen for it."""

from __future__ import annotations

import argparse
import platform


class EnvCommand:
    """Prints versions, and the device, dtype and decoding step with the reason for each."""

    name = "env"
    help = "print versions, and the device, dtype and decoding step that would be chosen, with the reasons"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """None."""

    def run(self, args: argparse.Namespace) -> int:
        """Print one table."""
        import torch
        import transformers
        from rich.console import Console
        from rich.table import Column, Table

        from minseek import __version__
        from minseek.models.device import place
        from minseek.models.forward.cuda_graphs import records_on
        from minseek.native import cache_folder, instruction_set, native_status

        placement = place()
        table = Table("what", Column("is", overflow="fold"), Column("because", overflow="fold"), show_edge=False)
        table.add_row("minseek", __version__, "")
        table.add_row("Python", platform.python_version(), platform.platform())
        table.add_row("torch", torch.__version__, f"{torch.get_num_threads()} threads")
        table.add_row("transformers", transformers.__version__, "")
        table.add_row("device", str(placement.device), placement.device_reason)
        table.add_row("dtype", str(placement.dtype).removeprefix("torch."), placement.dtype_reason)
        if placement.device.type == "cpu":
            status = native_status(placement.dtype)
            table.add_row("decoding step", "C" if status.library else "PyTorch", status.reason)
        else:
            kind = "PyTorch, in CUDA graphs" if records_on(placement.device) else "PyTorch"
            table.add_row("decoding step", kind, "the weights are not in main memory")
        isa = instruction_set()
        table.add_row("instruction set", isa.name if isa.flags else "none", isa.reason)
        table.add_row("kept files", str(cache_folder()), "MINSEEK_CACHE, else the user's cache folder")
        Console().print(table)
        return 0
