"""The dependency direction of ARCHITECTURE.md, kept by reading every import (lazy ones too)."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "penstock"

BASE = {"errors", "files", "metrics"}
IR = BASE | {"einsum_ir"}
MAPPER = IR | {"registry", "targets", "mapper"}
ALLOWED = {
    "agreement": {"metrics"},
    "errors": set(),
    "files": {"errors"},
    "metrics": set(),
    "registry": {"errors"},
    "hls_templates": set(),
    "rtl_templates": set(),
    "einsum_ir": {"errors"},
    "zoo": IR,
    "importers": IR,
    "targets": BASE | {"registry"},
    "mapper": IR | {"targets"},
    "machine": IR | {"targets"},
    "sim": IR | {"targets", "mapper", "machine"},
    "codegen": IR | {"registry", "targets", "mapper", "machine", "hls_templates", "rtl_templates"},
    "sweep": MAPPER,
    "reproduce": MAPPER | {"zoo", "sim"},
    "report": MAPPER | {"sim", "sweep"},
    "samples": IR,
    "pipelines": MAPPER | {"sim", "codegen"},
    "fitting": MAPPER | {"codegen"},
    "runtime": MAPPER | {"codegen", "samples"},
    "studies": MAPPER
    | {"sim", "machine", "codegen", "report", "samples", "sweep", "pipelines", "design"},
    "design": MAPPER
    | {
        "sim",
        "codegen",
        "report",
        "samples",
        "zoo",
        "pipelines",
        "runtime",
        "fitting",
        "agreement",
    },
}


def imports(path: Path) -> set[str]:
    """Return the first-level parts of penstock that a file imports, wherever it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "penstock":
                names = [f"penstock.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("penstock.")}
    return found - {"__version__"}


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_layers_import_only_what_they_may():
    seen = set()
    for path in sorted(ROOT.rglob("*.py")):
        layer = layer_of(path)
        if layer in ALLOWED:
            seen.add(layer)
            extra = imports(path) - ALLOWED[layer] - {layer}
            assert not extra, f"{path.relative_to(ROOT)} must not import {sorted(extra)}"
    assert seen == set(ALLOWED)


def test_tvm_is_imported_in_its_own_files_only():
    for path in ROOT.rglob("*.py"):
        if path.parent != ROOT / "codegen" / "tvm":
            assert not re.search(r"^\s*(import tvm\b|from tvm\b)", path.read_text(), re.MULTILINE)


def test_files_and_functions_stay_readable():
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 600, f"{path.relative_to(ROOT)} is too long"
        if layer_of(path) == "targets":
            continue  # a machine is one long table
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{path.name}: {node.name} has {length} lines"


def test_modules_that_texts_name_exist():
    known = [f"/{path.relative_to(ROOT)}" for path in ROOT.rglob("*.py")]
    for path in ROOT.rglob("*.py"):
        for name in re.findall(r"`((?:\w+/)*\w+\.py)`", path.read_text()):
            wanted = "/" + name.removeprefix("penstock/")
            assert any(each.endswith(wanted) for each in known), f"{path.name} names {name}"
