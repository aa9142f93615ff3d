"""GGUF files written again with something else in them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np


def rewritten(
    source: Path,
    target: Path,
    metadata: Mapping[str, Any] | None = None,
    tensors: Callable[[str, np.ndarray], np.ndarray] = lambda name, values: values,
    names: Mapping[str, str] | None = None,
    architecture: str = "",
    **writer_settings: Any,
) -> Path:
    """`source` as `target`, with other values for some `metadata` (None: none), other `names` for
    some tensors, and every tensor as `tensors` gives it for its name and numbers, which are fp32.
    `architecture`: another one. `writer_settings`: of gguf.GGUFWriter.
    """
    reader = gguf.GGUFReader(source)
    architecture = architecture or reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture, **writer_settings)
    said = {name: (field.contents(), field.types) for name, field in reader.fields.items()}
    for name, value in (metadata or {}).items():
        said.pop(name, None)
        if value is not None:
            said[name] = (value, [gguf.GGUFValueType.get_type(value)])
    for name, (value, types) in said.items():
        # the writer says these itself
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        known = types[-1] if types[0] == gguf.GGUFValueType.ARRAY and len(types) > 1 else None
        writer.add_key_value(name, value, types[0], known)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = (names or {}).get(tensor.name, tensor.name)
        writer.add_tensor(name, tensors(name, values.copy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
