"""Vectors of numbers as values in compiled code: one number per lane, one instruction for all.

A `Lanes` value is a row of a two-dimensional array, held in registers. Compiled code works with
such values through the functions below; without them, every operation on a row would be a loop
over memory, with checks whether the rows overlap.

How wide a row is must be known when the code is compiled. It is told by a `Block`, a tuple of which
only the length counts, because compiled code knows that of a tuple: one entry per register.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model
from numba.np.arrayobj import make_array

Block = tuple[int, ...]

TINY: Block = (0,)  # for a single configuration of a small supercell
SMALL: Block = (0,) * 2
NARROW: Block = (0,) * 4  # enough independent sums to hide their latency
CHUNK_BYTES = 64  # one register
_CONTRACT = ("contract",)

# Intrinsics are called without their first argument, which type checkers do not know.
_intrinsic: Callable[[Any], Any] = intrinsic


class Lanes(types.Type):
    """The type of a row of lanes: 8 of float64 or 16 of float32 in each register."""

    def __init__(self, dtype: types.Float, n_registers: int) -> None:
        self.dtype = dtype
        self.width = n_registers * CHUNK_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Lanes({dtype}, {self.width})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    """In memory and in registers, a vector of LLVM."""

    def __init__(self, manager: Any, lanes: Lanes) -> None:
        element = manager.lookup(lanes.dtype).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(element, lanes.width))


def width_of(block: Block, itemsize: int) -> int:
    """Lanes of a block, of numbers of some bytes each."""
    return len(block) * CHUNK_BYTES // itemsize


def _row_pointer(
    context: Any, builder: Any, signature: Any, arguments: Any, lanes: Lanes
) -> ir.Instruction:
    """Where a row of an array begins; the first two arguments are the array and the row."""
    data = make_array(signature.args[0])(context, builder, arguments[0]).data
    row = context.cast(builder, arguments[1], signature.args[1], types.intp)
    begin = builder.gep(data, [builder.mul(row, ir.Constant(row.type, lanes.width))])
    return builder.bitcast(begin, context.get_value_type(lanes).as_pointer())


@_intrinsic
def load(_: Any, array: Any, row: Any, block: Any) -> Any:
    """Row of a C-contiguous (n, lanes) array."""
    lanes = Lanes(array.dtype, len(block))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _row_pointer(context, builder, signature, arguments, lanes)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return lanes(array, row, block), generate


@_intrinsic
def store(_: Any, array: Any, row: Any, value: Any) -> Any:
    """Replace a row of a C-contiguous (n, lanes) array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _row_pointer(context, builder, signature, arguments, value)
        builder.store(arguments[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, row, value), generate


def _pointer(
    context: Any, builder: Any, signature: Any, arguments: Any, array: int
) -> ir.Instruction:
    """Where an array's number at a flat place is; the place is the argument behind the array."""
    data = make_array(signature.args[array])(context, builder, arguments[array]).data
    place = context.cast(builder, arguments[array + 1], signature.args[array + 1], types.intp)
    return builder.gep(data, [place])


@_intrinsic
def item(_: Any, array: Any, place: Any) -> Any:
    """The number at a flat place of a C-contiguous array; no place is counted from the end."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature, arguments, 0))

    return array.dtype(array, place), generate


@_intrinsic
def set_item(_: Any, array: Any, place: Any, value: Any) -> Any:
    """Replace the number at a flat place of a C-contiguous array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = context.cast(builder, arguments[2], signature.args[2], array.dtype)
        builder.store(number, _pointer(context, builder, signature, arguments, 0))
        return context.get_dummy_value()

    return types.void(array, place, value), generate


def _chunks(
    context: Any, builder: Any, signature: Any, arguments: Any
) -> tuple[ir.Instruction, ir.Instruction]:
    """Where `CHUNK_BYTES` of a target and of a source begin."""
    pointer = context.get_value_type(Lanes(signature.args[0].dtype, 1)).as_pointer()
    target, source = (
        builder.bitcast(_pointer(context, builder, signature, arguments, array), pointer)
        for array in (0, 2)
    )
    return target, source


@_intrinsic
def copy_chunk(_: Any, target: Any, begin: Any, source: Any, start: Any) -> Any:
    """Copy `CHUNK_BYTES` of one array, from a flat place, to those of another at `begin`."""
    align = target.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, of = _chunks(context, builder, signature, arguments)
        builder.store(builder.load(of, align=align), to, align=align)
        return context.get_dummy_value()

    return types.void(target, begin, source, start), generate


@_intrinsic
def subtract_chunk(_: Any, target: Any, begin: Any, source: Any, start: Any) -> Any:
    """Subtract `CHUNK_BYTES` of one array, from a flat place, from those of another at `begin`."""
    align = target.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, of = _chunks(context, builder, signature, arguments)
        values = [builder.load(pointer, align=align) for pointer in (to, of)]
        builder.store(builder.fsub(*values), to, align=align)
        return context.get_dummy_value()

    return types.void(target, begin, source, start), generate


@_intrinsic
def broadcast(_: Any, number: Any, block: Any) -> Any:
    """The same number in every lane."""
    lanes = Lanes(number, len(block))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        undefined = ir.Constant(context.get_value_type(lanes), ir.Undefined)
        index = ir.IntType(32)
        first = builder.insert_element(undefined, arguments[0], ir.Constant(index, 0))
        mask = ir.Constant(ir.VectorType(index, lanes.width), [0] * lanes.width)
        return builder.shuffle_vector(first, undefined, mask)

    return lanes(number, block), generate


@_intrinsic
def multiply(_: Any, a: Any, b: Any) -> Any:
    """The product a * b, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fmul(arguments[0], arguments[1], flags=_CONTRACT)

    return a(a, b), generate


@_intrinsic
def multiply_add(_: Any, a: Any, b: Any, c: Any) -> Any:
    """The sum a * b + c, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        product = builder.fmul(arguments[0], arguments[1], flags=_CONTRACT)
        return builder.fadd(product, arguments[2], flags=_CONTRACT)

    return c(a, b, c), generate
