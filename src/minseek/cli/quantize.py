"""``minseek quantize``: pack a model's weights into a GGUF file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from minseek.cli.flags import add_model_flag, choose_model, print_model_reason
from minseek.cli.startup import import_torch
from minseek.errors import InputError
from minseek.units import format_bytes


class QuantizeCommand:
    """Says what each tensor is packed in, and packs."""

    name = "quantize"
    help = "pack a model's weights in 2 to 8 bits into a GGUF file, which minseek and llama.cpp read"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags of ``minseek quantize``."""
        add_model_flag(parser)
        parser.add_argument("-o", "--output", metavar="FILE.gguf", help="write the packed model here")
        parser.add_argument(
            "--weights",
            metavar="FORMAT",
            help="q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, iq4_nl, iq4_xs, mxfp4, f16, bf16 or f32 "
            "(default: %(default)s)",
            default="q4_k",
        )
        parser.add_argument("--overwrite", action="store_true", help="replace FILE.gguf if it is there")

    def run(self, args: argparse.Namespace) -> int:
        """Print the plan, write the file, and print its size."""
        if args.output is None:
            raise InputError("-o is missing: give the name of the GGUF file to write")
        import_torch()
        from rich.console import Console

        from minseek.models.export.quantize import check_target, plan_packing, write_packed

        path = Path(args.output).expanduser()
        check_target(path, overwrite=args.overwrite)
        choose_model(args)
        print_model_reason(args)
        console = Console(stderr=True)
        with console.status(f"reading {args.model}") as status:
            plan = plan_packing(args.model, args.weights)
            print(plan.describe(), file=sys.stderr)
            write_packed(plan, path, lambda tensor, done, total: status.update(f"{done + 1} of {total}: {tensor}"))
        print(f"{path}: {format_bytes(path.stat().st_size)}")
        return 0
