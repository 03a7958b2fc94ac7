"""Errors of the library in the words of the command line: arguments of Python become flags."""

from __future__ import annotations

import argparse
import re


def with_flags(message: str, parser: argparse.ArgumentParser) -> str:
    """Write flags for the arguments that a message names.

    Names of several words are replaced wherever they stand; a single word only where the sentence is about it, since
    "keep", "slots" and "seed" are ordinary words, too.
    """
    for action in parser._actions:
        flag = next((option for option in action.option_strings if option.startswith("--")), None)
        if flag is None:
            continue
        name = flag.removeprefix("--").replace("-", "_")
        pattern = rf"(?<![\w.'\"/-]){name}(?![\w.'\"/=])"
        if "_" not in name:
            pattern = rf"^{name}(?= ('|(must|has|takes|and|or)\b))|(?<=^unknown ){name}\b|(?<= no effect with ){name}\b"
        message = re.sub(pattern, flag, message)
    return message
