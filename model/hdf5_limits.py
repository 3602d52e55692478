"""What an HDF5 file may ask its reader for, checked before anything of it is read.

A small file can declare arrays that fill any memory: compressed, never written, or many texts that
are one. It can also point to other files, and have the reader's own files read.
"""

from __future__ import annotations

from typing import Any

import h5py

from anharm.errors import ModelError

LARGEST_ARRAYS = 1 << 31  # bytes, all arrays of a file together; 16384 parameters have as many
LARGEST_NUMBER_OF_OBJECTS = 1000  # groups and arrays
LARGEST_LIST = 64  # entries of an attribute, and of an array that becomes Python objects

_NUMBERS = "biuf"
_TEXTS = "SO"


def check_limits(file: h5py.File, source: str) -> None:
    """Refuse a file that is more than bounded arrays of numbers with a few attributes.

    Parameters
    ----------
    file : h5py.File
        Open for reading.
    source : str
        Names it in messages.

    Raises
    ------
    ModelError
        If its arrays are too large together, hold anything but numbers, or lie in other files; if
        an attribute is more than a number, a text or a few numbers; or if a link leads elsewhere.
    """
    elsewhere = file.id.links.visit(_link_to_elsewhere, info=True)
    if elsewhere is not None:
        _refuse(source, elsewhere, "is a link to somewhere else")
    objects: list[tuple[str, Any]] = [("/", file)]

    def collect(name: str, item: Any) -> bool | None:
        objects.append((name, item))
        return True if len(objects) > LARGEST_NUMBER_OF_OBJECTS else None

    if file.visititems(collect):
        _refuse(source, "/", f"holds more than {LARGEST_NUMBER_OF_OBJECTS} objects")
    total = 0
    for name, item in objects:
        _check_attributes(item, name, source)
        if isinstance(item, h5py.Dataset):
            total += _checked_size(item, name, source)
            if total > LARGEST_ARRAYS:
                _refuse(
                    source,
                    name,
                    f"brings the arrays to {total} bytes, {LARGEST_ARRAYS} are allowed",
                )


def _link_to_elsewhere(name: bytes, link: Any) -> str | None:
    """The name of a link that is not simply an entry of its group."""
    return None if link.type == h5py.h5l.TYPE_HARD else name.decode(errors="replace")


def small_list(dataset: h5py.Dataset) -> list[float]:
    """The numbers of a short array, as Python's own.

    Raises
    ------
    ValueError
        If it is not short.
    """
    if dataset.ndim != 1 or dataset.size > LARGEST_LIST:
        raise ValueError(f"{dataset.name} has the shape {dataset.shape}")
    numbers: list[float] = dataset[()].tolist()
    return numbers


def _checked_size(dataset: h5py.Dataset, name: str, source: str) -> int:
    """Bytes of an array once it is read."""
    if dataset.dtype.kind not in _NUMBERS:
        _refuse(source, name, f"holds {str(dataset.dtype)[:50]}, not numbers")
    if dataset.external is not None or dataset.is_virtual:
        _refuse(source, name, "lies in another file")
    return int(dataset.nbytes)


def _check_attributes(item: h5py.Group | h5py.Dataset, name: str, source: str) -> None:
    for key in item.attrs:
        attribute = item.attrs.get_id(key)
        kind, shape = attribute.dtype.kind, attribute.shape or ()
        is_text = kind in _TEXTS and not shape and attribute.dtype.itemsize <= LARGEST_ARRAYS
        is_list = kind in _NUMBERS and len(shape) <= 1 and max(shape, default=1) <= LARGEST_LIST
        if not (is_text or is_list):
            _refuse(
                source, f"{name}.{key}"[:100], f"is of the kind {attribute.dtype}, shape {shape}"
            )


def _refuse(source: str, name: str, why: str) -> None:
    raise ModelError(f"{source} is not a readable anharm model file: {name[:100]!r} {why}")
