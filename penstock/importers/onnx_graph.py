"""An ONNX model as plain data: nodes, tensors with their dimensions, and values that are known.

What is wrong with a model is a `ModelError` that names the node. Excluded: what operators mean.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from penstock.einsum_ir.interpreter.rounding import Array
from penstock.errors import FileError, ModelError, ToolError, nearest, os_reason

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

__all__ = ["FORMATS", "Edge", "Graph", "Node", "element_type", "onnx_module", "read_graph"]

FORMATS: dict[int, str] = {1: "fp32", 10: "fp16", 11: "fp64", 16: "bf16"}
"""ONNX's element types of real numbers (``TensorProto.DataType``) → number format."""

_WHOLE = {2, 3, 4, 5, 6, 7, 9, 12, 13}
BOOL = 9


@dataclass(frozen=True, slots=True)
class Edge:
    """A tensor of an ONNX graph.

    Args:
        name: its name in the model.
        dims: extents.
        element: ONNX's number of the element type.
    """

    name: str
    dims: tuple[int, ...]
    element: int

    @property
    def format(self) -> str | None:
        """The number format; None for integers and booleans."""
        return FORMATS.get(self.element)


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of an ONNX graph.

    Args:
        op: the operator, as ``Attention``.
        version: the opset in which this meaning of the operator came (``since_version``).
        label: how messages call it.
        inputs: names of tensors; empty where an optional one is left out.
        outputs: as `inputs`.
        attributes: attribute → value.
    """

    op: str
    version: int
    label: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def input(self, place: int) -> str:
        """Return the name of an optional input; empty if it is left out."""
        return self.inputs[place] if place < len(self.inputs) else ""

    def required(self, place: int, formal: str) -> str:
        """Return the name of an input.

        Raises:
            ModelError: it is left out.
        """
        if not self.input(place):
            raise self.wrong(f"has no input {formal}", f"give input {place}, {formal}")
        return self.inputs[place]

    @property
    def result(self) -> str:
        """The name of the first output.

        Raises:
            ModelError: it is left out.
        """
        if not self.output(0):
            raise self.wrong("has no first output", "name it")
        return self.outputs[0]

    def output(self, place: int) -> str:
        """Return the name of an output; empty if it is left out."""
        return self.outputs[place] if place < len(self.outputs) else ""

    def wrong(self, what: str, fix: str) -> ModelError:
        """Return the error that says what is wrong with this node."""
        return ModelError(f"{self.label} {what}", fix=fix)

    def check_attributes(self, known: Collection[str]) -> None:
        """Check that the node has no other attributes than those that are known.

        Raises:
            ModelError: it has.
        """
        for name in self.attributes:
            if name not in known:
                near = nearest(name, known)
                raise self.wrong(
                    f"has attribute '{name}', which version {self.version} does not have",
                    f"did you mean {near}?" if near else f"leave out {name}",
                )

    def integer(self, name: str) -> int | None:
        """Return an attribute that is an integer, or None."""
        value: int | None = self._typed(name, int)
        return value

    def number(self, name: str) -> float | None:
        """Return an attribute that is a float, or None."""
        value: float | None = self._typed(name, float)
        return value

    def flag(self, name: str) -> bool:
        """Return an attribute that is 0 (the default) or 1.

        Raises:
            ModelError: it is another number.
        """
        return self.choice(name, 0, (0, 1)) == 1

    def choice(self, name: str, default: int, values: Collection[int]) -> int:
        """Return an attribute that is one of some integers.

        Raises:
            ModelError: it is not.
        """
        value = self.integer(name)
        if value is not None and value not in values:
            listed = ", ".join(str(each) for each in sorted(values))
            raise self.wrong(
                f"has {name} = {value}, not one of {listed}", f"set {name} to one of {listed}"
            )
        return default if value is None else value

    def axis(self, name: str, default: int, dims: int) -> int:
        """Return an attribute that is an axis of `dims` dimensions, counted from the front.

        Raises:
            ModelError: there is no such axis.
        """
        value = self.integer(name)
        return self.place(default if value is None else value, name, dims)

    def place(self, axis: int, name: str, dims: int) -> int:
        """Return an axis counted from the front.

        Raises:
            ModelError: there is no such axis.
        """
        if not -dims <= axis < dims:
            raise self.wrong(
                f"has {name} = {axis}, but its input has {dims} dimension(s)",
                f"set {name} to {-dims} ... {dims - 1}"
                if dims
                else "give an array with dimensions",
            )
        return axis % dims

    def _typed(self, name: str, kind: type) -> Any:
        value = self.attributes.get(name)
        if value is not None and not isinstance(value, kind):
            raise self.wrong(
                f"has {name} = {value!r}, which is no {kind.__name__}",
                f"give {name} as an attribute of type {kind.__name__}",
            )
        return value


@dataclass(frozen=True, slots=True)
class Graph:
    """A model.

    Args:
        name: of the graph, made an identifier.
        nodes: in the model's order, which is topological.
        inputs: what the caller gives; those that are `constants` are left out.
        outputs: names of tensors.
        constants: tensor → value, for initialisers and what the caller fixed.
        constant_edges: their dimensions and types.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[Edge, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Array]
    constant_edges: tuple[Edge, ...]


def onnx_module() -> Any:
    """Return the package ``onnx``, which is an extra.

    Raises:
        ToolError: it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ToolError(
            f"the package onnx cannot be imported: {error}",
            fix='pip install "penstock[onnx]"',
        ) from None
    return onnx


def element_type(element: int) -> np.dtype[Any]:
    """Return NumPy's type of an ONNX element type (that of ``ml_dtypes`` for bf16)."""
    found: np.dtype[Any] = onnx_module().helper.tensor_dtype_to_np_dtype(element)
    return found


def read_graph(
    source: str | Path | ModelProto,
    dims: Mapping[str, int],
    values: Mapping[str, npt.ArrayLike],
) -> Graph:
    """Return a model as plain data.

    Args:
        source: a file or a loaded model.
        dims: symbolic dimension (``dim_param``) → extent.
        values: graph input → its value, for inputs that are not to be inputs any more.

    Raises:
        FileError: the file cannot be read, or holds no model.
        ModelError: an operator, a type or a dimension that is not known.
        ToolError: onnx is not installed.
    """
    onnx = onnx_module()
    model = _loaded(onnx, source)
    graph = model.graph
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    given = {each.name: each for each in graph.input}
    for name, value in values.items():
        if name not in given:
            near = nearest(name, given)
            raise ModelError(
                f"'{name}' is no input of the model (inputs: {', '.join(given) or 'none'})",
                fix=f"did you mean {near}?" if near else f"leave out values['{name}']",
            )
        constants[name] = np.asarray(value)
    types = onnx.helper.np_dtype_to_tensor_dtype
    edges = tuple(Edge(name, a.shape, types(a.dtype)) for name, a in constants.items())
    inputs = [each for name, each in given.items() if name not in constants]
    return Graph(
        _identifier(graph.name),
        tuple(_node(onnx, model, each, place) for place, each in enumerate(graph.node)),
        tuple(_edge(each, dims) for each in inputs),
        tuple(each.name for each in graph.output),
        constants,
        edges,
    )


def _loaded(onnx: Any, source: str | Path | ModelProto) -> ModelProto:
    if not isinstance(source, str | Path):
        return source
    from google.protobuf.message import DecodeError

    try:
        model: ModelProto = onnx.load(source)
    except OSError as error:
        raise FileError(
            f"cannot read {source}: {os_reason(error)}", fix="give the path of an .onnx file"
        ) from None
    except DecodeError:
        raise FileError(
            f"{source} holds no ONNX model", fix="give the path of an .onnx file"
        ) from None
    return model


def _identifier(name: str) -> str:
    found = re.sub(r"[^A-Za-z0-9_]", "_", name).strip("_")
    return found if found[:1].isalpha() else f"onnx_{found}".rstrip("_")


def _node(onnx: Any, model: ModelProto, node: NodeProto, place: int) -> Node:
    label = (
        f"node {place} '{node.name}' ({node.op_type})"
        if node.name
        else (f"node {place} ({node.op_type})")
    )
    if node.domain not in {"", "ai.onnx"}:
        raise ModelError(
            f"{label} is of the domain '{node.domain}'",
            fix="export the model with the operators of ONNX itself (domain ai.onnx)",
        )
    opset = max((e.version for e in model.opset_import if e.domain in {"", "ai.onnx"}), default=1)
    try:
        version = onnx.defs.get_schema(node.op_type, opset).since_version
    except onnx.defs.SchemaError:
        raise ModelError(
            f"{label}: opset {opset} has no operator {node.op_type}",
            fix="set the model's opset_import to one that has it (Attention: 23), or convert the "
            "model with onnx.version_converter",
        ) from None
    read = onnx.helper.get_attribute_value
    attributes = {each.name: read(each) for each in node.attribute}
    return Node(node.op_type, version, label, tuple(node.input), tuple(node.output), attributes)


def _edge(info: ValueInfoProto, dims: Mapping[str, int]) -> Edge:
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type") or kind.elem_type not in {*FORMATS, *_WHOLE}:
        raise ModelError(
            f"input '{info.name}' of the model has elements of ONNX type {kind.elem_type}",
            fix="use FLOAT, FLOAT16, BFLOAT16, DOUBLE, BOOL or an integer type",
        )
    if not kind.HasField("shape"):
        raise ModelError(
            f"input '{info.name}' of the model has no shape",
            fix="give its shape in the model's graph.input",
        )
    return Edge(
        info.name,
        tuple(_extent(info.name, each, place, dims) for place, each in enumerate(kind.shape.dim)),
        kind.elem_type,
    )


def _extent(name: str, dim: Any, place: int, dims: Mapping[str, int]) -> int:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    if dim.dim_param in dims:
        return dims[dim.dim_param]
    called = f"'{dim.dim_param}'" if dim.dim_param else "without a name"
    raise ModelError(
        f"dimension {place} of input '{name}' is {called}, of unknown extent",
        fix=f"give it, as in from_onnx(model, dims={{'{dim.dim_param}': 64}})"
        if dim.dim_param
        else "give it a number in the model's graph.input",
    )
