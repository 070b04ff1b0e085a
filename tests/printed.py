"""What a page or an example shows, against what is printed now.

Words must agree exactly, numbers nearly: searches and models get better, but what is shown must
stay true. ``...`` stands for what varies.
"""

import os
import re

import pytest

NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?(?![\w.]*\w)")
NEARLY = 0.2


def same(expected, line):
    """Whether a printed line has the words of the expected one, and nearly its numbers."""
    words = re.escape(NUMBER.sub("#", expected)).replace(r"\.\.\.", ".*")
    if not re.fullmatch(words, NUMBER.sub("#", line)):
        return False
    pairs = zip(NUMBER.findall(expected), NUMBER.findall(line), strict="..." not in expected)
    numbers = [[float(each.replace(",", "")) for each in pair] for pair in pairs]
    return all(one == pytest.approx(other, rel=NEARLY, abs=1e-9) for one, other in numbers)


def differences(expected, printed):
    """Return the pairs of lines that are not the same."""
    assert len(expected) == len(printed), "\n".join(printed)
    pairs = zip(expected, printed, strict=True)
    return [(one, other) for one, other in pairs if not same(one.strip(), other.strip())]


def shown_on(terminal: int) -> str:
    """Return what comes to a terminal until its other end is closed, and close it."""
    shown = b""
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(terminal)
    return shown.decode()
