"""The public surface: every exported name exists, and importing the package is quick."""

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import penstock

HEAVY = ("tvm", "rich", "plotly", "sympy", "networkx", "jinja2", "numpy")


def modules():
    for info in pkgutil.walk_packages(penstock.__path__, "penstock."):
        if info.name != "penstock.__main__":
            yield importlib.import_module(info.name)


def test_every_name_in_every_all_exists():
    for module in (penstock, *modules()):
        for name in getattr(module, "__all__", ()):
            assert getattr(module, name) is not None, f"{module.__name__}.{name}"


def test_every_module_says_what_it_is():
    for module in modules():
        assert module.__doc__, module.__name__


def test_every_public_name_is_in_the_reference():
    page = (Path(__file__).resolve().parent.parent / "docs" / "reference.md").read_text()
    for name in penstock.__all__:
        assert re.search(rf"^::: penstock\.(\w+\.)*{name}$", page, flags=re.MULTILINE), name
        assert getattr(penstock, name).__doc__


def test_import_loads_nothing_heavy():
    code = f"import sys, penstock;print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_a_decision():
    assert penstock.__all__ == [
        "Builder",
        "Cascade",
        "Design",
        "PenstockError",
        "Target",
        "classify",
        "count_passes",
        "exp",
        "explore",
        "generate",
        "jit",
        "parse",
        "ranks",
        "reduce_max",
        "reduce_passes",
        "run",
        "run_calls",
        "simulate",
        "verify",
        "zoo",
    ]
