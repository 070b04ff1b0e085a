"""Cascades from other people's formats: ONNX operators (`onnx.py`), FlexAttention (`flex.py`).

Each importer returns an ordinary `Cascade`. Excluded: whole networks, weights, training.
"""

__all__: list[str] = []
