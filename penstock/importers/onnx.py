"""ONNX models as cascades: `from_onnx` imports one, `run_onnx` interprets it on arrays.

::

    imported = from_onnx("attention.onnx", dims={"batch": 2})
    print(imported.cascade)
    outputs = run_onnx(imported, {"Q": q, "K": k, "V": v})

Operators: ``Attention`` (`onnx_attention.py`), ``Softmax``, ``LogSoftmax``, ``ReduceLogSumExp``,
``LayerNormalization``, ``RMSNormalization`` (`onnx_norms.py`), ``RotaryEmbedding``
(`onnx_rotary.py`), one or several in a model. Semantics: the operator specifications of
onnx 1.22.0.

Numbers. A run is in fp32, or in fp64 if a tensor of the model is DOUBLE. The tensors that the model
types as FLOAT16 or BFLOAT16 have that format: they are rounded once, when they are written. What is
between them inside a node stays in fp32, as in fused kernels, unless an attribute says otherwise
(``softmax_precision``, ``stash_type``). ONNX's reference rounds each step to the narrow type, and
is the less exact one.

Excluded: every other operator, and control flow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from penstock.einsum_ir.cascade import Cascade
from penstock.einsum_ir.formats import Format, parse_format
from penstock.einsum_ir.interpreter.interp import interpret
from penstock.einsum_ir.interpreter.rounding import Array
from penstock.einsum_ir.shapes import bind
from penstock.errors import DataError, ModelError, nearest
from penstock.importers.onnx_attention import attention
from penstock.importers.onnx_build import Importing
from penstock.importers.onnx_graph import Edge, Node, element_type, read_graph
from penstock.importers.onnx_norms import (
    layer_normalization,
    log_softmax_node,
    reduce_log_sum_exp,
    rms_normalization,
    softmax_node,
)
from penstock.importers.onnx_rotary import rotary_embedding

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Imported", "Port", "from_onnx", "run_onnx"]

Importer = Callable[[Node, Importing], None]

_OPERATORS: dict[str, tuple[Importer, tuple[int, ...]]] = {
    "Attention": (attention, (23, 24)),
    "LayerNormalization": (layer_normalization, (17,)),
    "LogSoftmax": (log_softmax_node, (1, 11, 13)),
    "RMSNormalization": (rms_normalization, (23,)),
    "ReduceLogSumExp": (reduce_log_sum_exp, (1, 11, 13, 18)),
    "RotaryEmbedding": (rotary_embedding, (23,)),
    "Softmax": (softmax_node, (1, 11, 13)),
}
"""Operator → how it is imported, and the opsets whose meaning of it is known."""


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor of the model that is an input or output of the cascade.

    Args:
        edge: its name, dimensions and element type in the model.
        tensor: its name in the cascade.
    """

    edge: Edge
    tensor: str


@dataclass(frozen=True, slots=True)
class Imported:
    """A model as a cascade.

    Args:
        cascade: with every extent known.
        format: the number format of a run.
        inputs: those of the cascade, constants among them.
        outputs: those of the cascade.
        constants: tensor of the model → its value, where that was known on import.
        unused: inputs of the model that nothing reads.
    """

    cascade: Cascade
    format: Format
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    constants: Mapping[str, Array]
    unused: tuple[str, ...]


def from_onnx(
    model: str | Path | ModelProto,
    *,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, npt.ArrayLike] | None = None,
) -> Imported:
    """Import a model of one or several nodes.

    Args:
        model: a file or a loaded model.
        dims: symbolic dimension (``dim_param``) → extent.
        values: input of the model → value, for inputs that decide which cascade it is (the
            ``axes`` of ReduceLogSumExp). Initialisers are known without.

    Raises:
        FileError: the file cannot be read, or holds no model.
        ModelError: an operator, an attribute, a type or a dimension that is not imported.
        ToolError: onnx is not installed.
    """
    graph = read_graph(model, dims or {}, values or {})
    to = Importing(graph)
    for node in graph.nodes:
        _importer(node)(node, to)
    cascade = to.build(graph.outputs)
    inputs = tuple(Port(each.edge, each.name) for each in to.inputs)
    read = {each.edge.name for each in inputs}
    return Imported(
        cascade,
        parse_format(to.run_format),
        inputs,
        tuple(Port(each.edge, each.name) for each in to.sources(graph.outputs)),
        graph.constants,
        tuple(each.name for each in graph.inputs if each.name not in read),
    )


def _importer(node: Node) -> Importer:
    if node.op not in _OPERATORS:
        near = nearest(node.op, _OPERATORS)
        raise ModelError(
            f"{node.label}: operator {node.op} is not imported (imported: {', '.join(_OPERATORS)})",
            fix=f"did you mean {near}?"
            if near
            else "cut the part around the attention out with onnx.utils.extract_model",
        )
    importer, versions = _OPERATORS[node.op]
    if node.version not in versions:
        raise ModelError(
            f"{node.label} is {node.op} as of opset {node.version} (known: "
            f"{', '.join(str(each) for each in versions)})",
            fix=f"convert the model to opset {max(versions)} with onnx.version_converter",
        )
    return importer


def run_onnx(imported: Imported, arrays: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
    """Interpret an imported model.

    Args:
        imported: what `from_onnx` returned.
        arrays: input of the model → array. Constants and unused inputs may be among them.

    Returns:
        Output of the model → array of its element type (``ml_dtypes.bfloat16`` for BFLOAT16).

    Raises:
        DataError: an array is missing, superfluous, of another shape, or not the constant.
    """
    given = {name: np.asarray(value) for name, value in arrays.items()}
    _check_given(imported, given)
    given |= imported.constants
    inputs: dict[str, Array] = {}
    for port in imported.inputs:
        if port.edge.name not in given:
            raise DataError(
                f"input '{port.edge.name}' has no array", fix=f"add an array '{port.edge.name}'"
            )
        inputs[port.tensor] = _checked(port.edge, given[port.edge.name])
    found = interpret(bind(imported.cascade), inputs, imported.format)
    return {
        port.edge.name: found[port.tensor].astype(element_type(port.edge.element))
        for port in imported.outputs
    }


def _check_given(imported: Imported, given: Mapping[str, Array]) -> None:
    known = [each.edge.name for each in imported.inputs]
    for name, array in given.items():
        constant = imported.constants.get(name)
        if constant is not None and not np.array_equal(constant, array):
            raise DataError(
                f"array '{name}' is not the one that the model was imported with",
                fix=f"leave out '{name}', or import again with values={{'{name}': ...}}",
            )
        if constant is None and name not in {*known, *imported.unused}:
            near = nearest(name, known)
            raise DataError(
                f"array '{name}' is no input of the model (inputs: {', '.join(known)})",
                fix=f"did you mean {near}?" if near else f"leave out '{name}'",
            )


def _checked(edge: Edge, array: Array) -> Array:
    if array.shape != edge.dims:
        raise DataError(
            f"array '{edge.name}' has shape {array.shape}, the model says {edge.dims}",
            fix=f"give an array of shape {edge.dims}",
        )
    return _numbers(array)


def _numbers(array: Array) -> Array:
    """Return an array as the interpreter takes it: bf16 as fp32, and no dimension of 0."""
    if array.dtype.kind not in "fiub":
        array = array.astype(np.float32)
    if array.size:
        return array
    return np.zeros([max(dim, 1) for dim in array.shape], dtype=array.dtype)
