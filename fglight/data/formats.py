"""Readers of the two file formats that the in-memory data sets come in: IDX and pickled batches."""

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np

_IDX_UINT8 = 0x08

# NumPy renames the modules its pickles point to between releases, so the functions are taken from live objects.
_ARRAY_PARTS = {
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
    "scalar": np.int64(0).__reduce__()[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
}


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzipped (``*.gz``) or plain.

    Args:
        path: the file.

    Returns:
        Array of uint8 with the shape that the file's header states, read-only.

    Raises:
        Exception: nearly anything, if the compression is broken, the header is not one of unsigned bytes, or the file
            is shorter or longer than it says.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read()
    if content[:3] != bytes([0, 0, _IDX_UINT8]):
        raise ValueError(f"{path.name} must start with 0x000008, as IDX files of bytes do, got 0x{content[:3].hex()}")
    shape = np.frombuffer(content, ">u4", content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numbers, strings, lists, dicts and NumPy arrays, and refuses whatever else a file may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in _ARRAY_PARTS:
            return _ARRAY_PARTS[name]
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes the bytes of Python 3
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"asks for {module}.{name}, which no file of arrays needs")


def read_pickled_batch(path: Path) -> dict[str, Any]:
    """Read a dict of arrays and lists, pickled by Python 2 or 3, without running code from the file.

    Args:
        path: the file.

    Returns:
        The dict, its keys as strings whichever Python wrote them.

    Raises:
        ValueError: the file holds something other than a dict.
        Exception: nearly anything, if the file is damaged: pickles are programs.
    """
    with path.open("rb") as file:
        batch = _ArrayUnpickler(file, encoding="bytes").load()
    if not isinstance(batch, dict):
        raise ValueError(f"holds a {type(batch).__name__}, not a dict")
    return {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
