"""Write the flags of every command into its page under docs/commands/, from the parsers themselves.

    python docs/hooks/command_pages.py

Each page holds text of its own around two markers; everything between them is replaced. `make docs` runs this script,
and a test compares the pages with the parsers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

PAGES = Path(__file__).parent.parent / "commands"
BEGIN = "<!-- flags: written by docs/hooks/command_pages.py -->"
END = "<!-- end of flags -->"


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return one parser a command, by the command's name."""
    from minseek.cli import COMMANDS

    found = {}
    for kind in COMMANDS:
        command = kind()
        parser = argparse.ArgumentParser(prog=f"minseek {command.name}", description=command.help)
        command.add_arguments(parser)
        found[command.name] = parser
    return found


def flags_of(parser: argparse.ArgumentParser) -> str:
    """Return the flags of a parser as Markdown: a table for each group of flags."""
    parts = [f"`{_usage(parser)}`"]
    for group in parser._action_groups:
        shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        actions = [action for action in shown if action.dest != "help"]
        if not actions:
            continue
        title = {"positional arguments": "arguments", "options": "general"}.get(group.title or "", group.title or "")
        parts.append(f"**{title[0].upper()}{title[1:]}**")
        rows = [f"| {_name(action)} | {_meaning(action, parser)} |" for action in actions]
        parts.append("\n".join(["| flag | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def with_flags(page: str, flags: str) -> str:
    """Return a page whose text between the markers is `flags`."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{flags}\n\n{END}{after}"


def _usage(parser: argparse.ArgumentParser) -> str:
    positional = [action for action in parser._actions if not action.option_strings]
    names = [str(action.metavar or action.dest.upper()).replace("|", " or ") for action in positional]
    return " ".join([parser.prog, *names, "[flags]" if len(parser._actions) > len(positional) + 1 else ""]).strip()


def _name(action: argparse.Action) -> str:
    choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper()
    value = str(action.metavar or choices).replace("|", " or ")
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{flag}`" if action.nargs == 0 else f"`{flag} {value}`" for flag in action.option_strings)


def _meaning(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    if (
        action.nargs != 0
        and action.default not in (None, False, argparse.SUPPRESS)
        and "%(default)" not in (action.help or "")
    ):
        text = f"{text} (default: {action.default})" if text else f"(default: {action.default})"
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    """Rewrite every page whose flags have changed."""
    for name, parser in parsers().items():
        page = PAGES / f"{name}.md"
        text = page.read_text()
        renewed = with_flags(text, flags_of(parser))
        if renewed != text:
            page.write_text(renewed)
            print(f"{page.name}: flags renewed")


if __name__ == "__main__":
    main()
