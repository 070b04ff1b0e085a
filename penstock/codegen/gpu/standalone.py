"""Launch generated CUDA kernels on PyTorch tensors: this file and two others, no TVM, no penstock.

    from launch import Kernels
    outputs = Kernels("folder")(Q, K, V)        # CUDA tensors, in the order of launch.json

``kernels.cubin`` is compiled from ``kernels.cu`` with nvcc the first time. Launches go to PyTorch's
current stream and are not waited for.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["Kernels"]

_ELEMENTS = {"float16": 6, "float32": 7, "float64": 8, "bfloat16": 9}
"""CUtensorMapDataType: CUDA driver API, "Tensor Map Object Management"."""

_SWIZZLE_128, _PROMOTE_256 = 3, 3
_MOST_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class Kernels:
    """The kernels of one folder, loaded; call with the inputs, get the output or several."""

    def __init__(self, folder: str | Path) -> None:
        import torch

        self.torch: Any = torch
        torch.cuda.init()
        torch.zeros(1, device="cuda")  # makes the context that the driver calls below use
        self.driver = ctypes.CDLL("libcuda.so.1")
        folder = Path(folder)
        self.told = json.loads((folder / "launch.json").read_text())
        cubin = folder / "kernels.cubin"
        if not cubin.exists():
            subprocess.run(self.told["compile"], cwd=folder, check=True)
        self.image = cubin.read_bytes()
        self.module = ctypes.c_void_p()
        self._do("cuModuleLoadData", ctypes.byref(self.module), self.image)
        self.functions: dict[str, ctypes.c_void_p] = {}
        self.work = {each["name"]: self._array(each) for each in self.told["workspace"]}
        self.maps: dict[tuple[str, int], Any] = {}

    def _do(self, name: str, *arguments: Any) -> None:
        code = getattr(self.driver, name)(*arguments)
        if code:
            said = ctypes.c_char_p()
            self.driver.cuGetErrorString(code, ctypes.byref(said))
            raise RuntimeError(f"{name} failed with {code}: {(said.value or b'?').decode()}")

    def _array(self, told: dict[str, Any]) -> Any:
        kind = getattr(self.torch, told["type"])
        return self.torch.empty(told["shape"], dtype=kind, device="cuda")

    def __call__(self, *inputs: Any, out: tuple[Any, ...] = ()) -> Any:
        """Run on inputs, in order; into ``out`` if given.

        Raises:
            ValueError: a tensor of another shape, type or place.
            RuntimeError: the driver refused.
        """
        parameters = self.told["parameters"]
        outputs = out or tuple(self._array(each) for each in parameters[len(inputs) :])
        given = (*inputs, *outputs)
        for told, array in zip(parameters, given, strict=True):
            kind = getattr(self.torch, told["type"])
            fits = list(array.shape) == told["shape"] and array.dtype == kind
            if not (fits and array.is_cuda and array.is_contiguous()):
                raise ValueError(
                    f"{told['name']} must be a contiguous CUDA tensor of {told['type']}, "
                    f"shape {told['shape']}"
                )
        names = (each["name"] for each in parameters)
        arrays = {**self.work, **dict(zip(names, given, strict=True))}
        self._steps(self.told["steps"], arrays, {})
        return outputs if len(outputs) > 1 else outputs[0]

    def _steps(
        self, steps: list[dict[str, Any]], arrays: dict[str, Any], at: dict[str, int]
    ) -> None:
        for step in steps:
            if "for" in step:
                for value in range(step["extent"]):
                    self._steps(step["steps"], arrays, {**at, step["for"]: value})
            else:
                self._launch(step, arrays, at)

    def _launch(self, step: dict[str, Any], arrays: dict[str, Any], at: dict[str, int]) -> None:
        values: list[Any] = [
            ctypes.c_int(at[name]) if name in at else ctypes.c_void_p(arrays[name].data_ptr())
            for name in step["arguments"]
        ]
        values += [self._map(each, arrays[each["tensor"]]) for each in step.get("maps", ())]
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(each) for each in values))
        stream = ctypes.c_void_p(self.torch.cuda.current_stream().cuda_stream)
        sizes = (*step["grid"], *step["block"], step["shared_bytes"])
        self._do("cuLaunchKernel", self._function(step), *sizes, stream, places, None)

    def _function(self, step: dict[str, Any]) -> ctypes.c_void_p:
        name = step["kernel"]
        if name not in self.functions:
            found = ctypes.c_void_p()
            self._do("cuModuleGetFunction", ctypes.byref(found), self.module, name.encode())
            if step["shared_bytes"] > 49152:
                self._do("cuFuncSetAttribute", found, _MOST_SHARED, step["shared_bytes"])
            self.functions[name] = found
        return self.functions[name]

    def _map(self, told: dict[str, Any], array: Any) -> Any:
        """Return the TMA descriptor of a tensor; the driver wants it at a multiple of 64 bytes."""
        key = (f"{told['tensor']} {told['box']}", array.data_ptr())
        if key not in self.maps:
            room = (ctypes.c_byte * 192)()
            start = -ctypes.addressof(room) % 64
            made = (ctypes.c_byte * 128).from_buffer(room, start)
            rank = array.dim()
            sizes = (ctypes.c_uint64 * rank)(*reversed(array.shape))
            strides = [each * array.element_size() for each in reversed(array.stride()[:-1])]
            boxes = (ctypes.c_uint32 * rank)(*reversed(told["box"]))
            ones = (ctypes.c_uint32 * rank)(*([1] * rank))
            kind = _ELEMENTS[str(array.dtype).removeprefix("torch.")]
            self._do(
                "cuTensorMapEncodeTiled", ctypes.byref(made), kind, rank,
                ctypes.c_void_p(array.data_ptr()), sizes, (ctypes.c_uint64 * (rank - 1))(*strides),
                boxes, ones, 0, _SWIZZLE_128, _PROMOTE_256, 0,
            )  # fmt: skip
            self.maps[key] = made
        return self.maps[key]
