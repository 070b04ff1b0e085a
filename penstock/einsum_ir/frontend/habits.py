"""What people bring from NumPy, PyTorch, LaTeX, Python and C, and what it is in the notation.

Each function returns the fix of an error, empty if it knows none. Excluded: finding out that
something is wrong, which `tokens.py`, `expressions.py` and `notation.py` do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from penstock.einsum_ir.ops import NORMALISATIONS, REDUCTIONS, SELECTIONS

__all__ = [
    "character",
    "example",
    "function",
    "reduction",
    "statement",
    "trailing",
]

_SIGNS = {
    "!": "not",
    "~": "not",
    "¬": "not",
    "∧": "and",
    "∨": "or",
    "^": "**",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "×": "*",
    "·": "*",
    "⋅": "*",
    "÷": "/",
    "−": "-",
    "–": "-",
    "—": "-",
    "²": "** 2",
    "∞": "inf",
    "→": "->",
    "←": "=",
    "√": "sqrt(...)",
    "σ": "sigmoid(...)",
    "{": "(",
    "}": ")",
}
_BRACES = "indices stand in square brackets, as in O[p]"
_REDUCE = "write ':: sum[e]' after the expression"
_TEXT = (  # what stands there, from which character on; a fix
    (re.compile(r"&&?"), 0, "write 'and'"),
    (re.compile(r"\|\|?"), 0, "write 'or'"),
    (re.compile(r"(?<=[_^])\{[^}]*\}?"), 0, _BRACES),
    (re.compile(r"_\w*"), 0, _BRACES),
    (re.compile(r"\\?[Σ∑]|\\sum(_\{?\w+\}?)?"), 0, _REDUCE),
    (re.compile(r"\\[lr]?(cdot|times)"), 0, "write '*'"),
    (re.compile(r"\\leq?\b"), 0, "write '<='"),
    (re.compile(r"\\geq?\b"), 0, "write '>='"),
    (re.compile(r"\\infty"), 0, "write 'inf'"),
    (re.compile(r"\\frac"), 0, "write a / b"),
    (re.compile(r"\\"), 0, "leave the '\\' out"),
    (re.compile(r"(?<=\bs)\.t\b"), 1, "write 's.t.', with both dots"),
    (re.compile(r"\.\.\."), 0, "write an index for each rank"),
    (re.compile(r"\.(T|mT)\b"), 0, "leave it out, and exchange the indices: K[m, e] or K[e, m]"),
    (re.compile(r"\.(shape|size)\b(\[\d\]|\(\d\))?"), 0, "write a rank in capitals: P is its size"),
    (re.compile(r"\.(?=\s)"), 0, "write '*' for a product"),
    (re.compile(r"\.\w+(?=\()"), 0, "an operator stands alone, before its operands: exp(X[p])"),
    (re.compile(r"@"), 0, "write '*' and the indices: Q[p, e] * K[m, e] is summed over e"),
    (re.compile(r"\?"), 0, "to choose a value, write where(condition, a, b)"),
    (re.compile(r"(?<=einsum\()['\"]"), 0, "write the product: Q[p, e] * K[m, e] is summed over e"),
    (re.compile(r"['\"]"), 0, "leave the quotes out"),
)
_STATEMENTS = {
    ("for", "while", "foreach", "scan"): "write 'loop i:', and below it, indented, its Einsums",
    ("return", "yield", "output", "outputs"): "leave it out: the first line names the outputs",
    ("input", "inputs"): "name the inputs in the first line: cascade c(Q[p, e])",
    ("let", "var", "set", "param", "constant"): "write 'const W = 4'",
    ("if",): "write a predicate behind the Einsum: s.t. m <= p",
    ("st", "where"): "write a predicate as in 's.t. m <= p'",
}
_FUNCTIONS = {
    ("pow", "power"): "write a ** b",
    ("square",): "write sq(x)",
    ("maximum", "fmax"): "write max(a, b)",
    ("minimum", "fmin"): "write min(a, b)",
    ("if_else", "ifelse", "select", "cond"): "write where(condition, a, b)",
    ("einsum", "matmul", "dot", "bmm", "mm"): "write the product at its indices: Q[p, e] * K[m, e]",
    ("transpose", "permute"): "exchange the indices: K[m, e] or K[e, m]",
    ("tril", "triu", "mask", "masked_fill"): "write a predicate behind the Einsum: s.t. m <= p",
    ("cat", "concat", "concatenate"): "give each piece a line of its own, with a predicate (s.t.)",
    ("len", "shape", "size"): "write a rank in capitals: P is the size of p",
    ("logsumexp",): "write the sum on a line of its own, D[p] = exp(X[p, m]), and then log(D[p])",
}
_REDUCTIONS = {
    ("add", "plus", "total", "count"): "sum",
    ("product", "mul", "times"): "prod",
    ("average", "avg"): "mean",
    ("maximum", "amax", "any"): "max",
    ("minimum", "amin", "all"): "min",
    ("top_k", "sort"): "topk",
}
_WORDS = {
    ("st", "where", "when", "such", "with", "for", "unless"): "write 's.t.' before a predicate",
    ("if", "else"): "write 's.t.' before a predicate; where(condition, a, b) chooses a value",
    ("is",): "write '==' to compare",
    ("AND", "OR", "NOT", "IF"): "write it in lower-case letters",
    (";",): "leave the ';' out",
    ("//", "%"): "write '#' before a comment",
}


def _find(table: dict[tuple[str, ...], str], word: str) -> str:
    return next((found for words, found in table.items() if word in words), "")


def character(text: str, position: int) -> tuple[int, int, str]:
    """Return (column, length, fix) of a character that is not in the notation."""
    for pattern, before, fix in _TEXT:
        match = pattern.match(text, position)
        if match is not None:
            return position - before, len(match[0]) + before, fix
    sign = _SIGNS.get(text[position])
    fix = f"write '{sign}'" if sign else "leave it out, or put it in a comment after '#'"
    return position, 1, fix


def statement(word: str, following: str) -> str:
    """Return how to write a statement that starts with a word of another language."""
    if following == "(":
        return f"to define a function, write 'def {word}(x) = ...'"
    return _find(_STATEMENTS, word)


def function(name: str) -> str:
    """Return how to write what other languages have a function for."""
    return _find(_FUNCTIONS, name)


def reduction(name: str) -> str:
    """Return the fix for a reduction that has another name, or that is none."""
    if name in NORMALISATIONS:
        return f"write A[p, m] = {name}(QK[p, m]; m), without '::'"
    known = {**REDUCTIONS, **SELECTIONS}
    other = _find(_REDUCTIONS, name) or name.removeprefix("reduce_")
    return f"write {example(other)}" if other in known else ""


def example(name: str) -> str:
    """Return a reduction as it is written: ``:: sum[m]``, ``:: topk[m -> j]``."""
    many = name in SELECTIONS and SELECTIONS[name].many
    return f":: {name}[{'m -> j' if many else 'm'}]"


def _outside(words: Sequence[str]) -> list[str]:
    """Return the words that stand in no brackets."""
    found: list[str] = []
    depth = 0
    for word in words:
        depth += (word in {"(", "["}) - (word in {")", "]"})
        if not depth:
            found.append(word)
    return found


def trailing(before: Sequence[str], found: str, following: str, inside: str = "") -> str:
    """Return the fix for what stands where an expression could have ended.

    Args:
        before: the words and signs of the statement so far.
        found: what stands there.
        following: what comes next.
        inside: the bracket that is open, if one is.
    """
    if found == "=":
        instead = {"<": "<=", ">": ">="}.get(following, "==")
        return f"write '{instead}'" if instead != "==" else "write '==' to compare"
    if found == ":" and (inside == "(" or "cascade" in before[:1]):
        return "leave the ':' out"
    if found == ":" and inside:
        return "write a rank variable for a whole rank, and a predicate for a part: s.t. e < 4"
    if found == ":":
        return "write '::' before a reduction, 's.t.' before a predicate"
    if found == "," and not inside:
        joined = "write 'and' between two conditions" if "s.t." in before else ""
        return joined or "leave the ',' out; a predicate stands after 's.t.'"
    if word := _find(_WORDS, found):
        return word
    outside = " ".join(_outside(before))
    if found[0].isalpha() and ("//" in outside or "- -" in outside):
        return "write '#' before a comment"
    last = re.fullmatch(rf"({'|'.join(REDUCTIONS)})_(\w+)", before[-1]) if before else None
    return f"write ':: {last[1]}[{last[2]}]' after the expression" if last else ""
