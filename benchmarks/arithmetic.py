"""How near evaluations come to the limit of a core: multiply-adds per second.

`python benchmarks/arithmetic.py` counts the multiply-adds of forces and of all errors per
configuration, divides them by CPU times, of one configuration alone and of one of 32 in a batch,
and compares with what the same core does in registers. The product with the factor is the larger
part of the errors of large models, here by itself.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

from functools import partial

import numpy as np
from measure import cpu_time, interleaved
from numba import njit
from systems import (
    ARSENIDE_64,
    ARSENIDE_216,
    SELENIDE_72,
    SILICON_64,
    SILICON_216,
    System,
    random_model,
)

from anharm.model import ForceField
from anharm.model.lanes import Block, broadcast, load, multiply_add, store, width_of
from anharm.model.product_kernels import PRODUCT_BLOCK, TOGETHER, Packed, sums_of_squares

SUMS = 6


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def add_in_registers(numbers: np.ndarray, repeats: int, block: Block) -> None:
    """So many multiply-adds, six independent blocks of lanes at a time."""
    half = broadcast(numbers.dtype.type(0.5), block)
    one = load(numbers, 0, block)
    a = b = c = d = e = f = one
    for _ in range(repeats):
        a, b, c = (
            multiply_add(half, a, one),
            multiply_add(half, b, one),
            multiply_add(half, c, one),
        )
        d, e, f = (
            multiply_add(half, d, one),
            multiply_add(half, e, one),
            multiply_add(half, f, one),
        )
    for row, total in enumerate((a, b, c, d, e, f)):
        store(numbers, row, total)


def limit(dtype: type, repeats: int = 1_000_000) -> float:
    """Multiply-adds per second in registers, the best of some trials."""
    width = width_of(PRODUCT_BLOCK, np.dtype(dtype).itemsize)
    work = partial(add_in_registers, np.ones((SUMS, width), dtype), repeats, PRODUCT_BLOCK)
    work()
    return SUMS * width * repeats / min(cpu_time(work) for _ in range(25))


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def multiply(
    matrices: Packed, number: int, columns: np.ndarray, block: Block, squares: np.ndarray
) -> None:
    """The product with the factor of one class of components, alone."""
    sums_of_squares(matrices, number, columns, len(columns), 1, block, squares, 0)


def product_sizes(matrices: Packed) -> np.ndarray:
    """Multiply-adds of each matrix and one column."""
    return TOGETHER * np.diff(matrices.starts[matrices.first_groups])


def product_rate(matrices: Packed, number: int, n_columns: int) -> float:
    """Multiply-adds per second of the product of a factor with a block of design rows."""
    width = width_of(PRODUCT_BLOCK, matrices.values.itemsize)
    columns = np.ones((n_columns, width), matrices.values.dtype)
    work = partial(multiply, matrices, number, columns, PRODUCT_BLOCK, np.empty_like(columns[:1]))
    return int(product_sizes(matrices)[number]) * width / interleaved([work], 7)[0]


def multiply_adds(force_field: ForceField) -> tuple[int, int, int]:
    """Of forces, of all errors, and of their products with factors, per configuration."""
    forest = force_field._forest.forest
    forces = 3 * len(forest.entry_variables) + 6 * len(forest.row_bodies) + 3 * len(forest.depths)
    errors, single = force_field._errors, np.dtype(np.float32)
    program = errors._programs[single.itemsize]
    rows = len(program.tables.parents) + len(program.tables.term_nodes)
    products = product_sizes(force_field._factor.packed(errors._classes, single))
    combinations = np.diff(program.combinations.starts[program.first_rows].astype(int))
    components = np.diff(program.first_components)
    counts = forces, rows + components @ (combinations + products), components @ products
    return tuple(int(count) * force_field.supercell.n_cells for count in counts)


def main() -> None:
    """Print the table."""
    limits = limit(float), limit(np.float32)
    print("| 10^9 multiply-adds per second | in millions | alone | one of 32 beads | limit |")
    print("|---|---|---|---|---|")
    for system in (SILICON_64, SILICON_216, ARSENIDE_64, ARSENIDE_216, SELENIDE_72):
        print_rates(system, limits)


def print_rates(system: System, limits: tuple[float, float]) -> None:
    """Two rows: forces in double and errors in single precision."""
    expansion = system.expansion()
    force_field = ForceField(random_model(expansion), system.supercell(expansion))
    shape = (32, force_field.supercell.n_atoms, 3)
    beads = np.random.default_rng(1).normal(0, 0.03, shape)
    *counts, products = multiply_adds(force_field)
    for what, errors, count, most in zip(
        ("forces", "errors"), (False, True), counts, limits, strict=True
    ):
        if errors:
            works = [partial(force_field.force_std, batch, False) for batch in (beads[:1], beads)]
        else:
            works = [
                partial(force_field.predict, batch, errors=False, virial=False)
                for batch in (beads[:1], beads)
            ]
        alone, batch = interleaved(works, 7)
        rates = (count / 1e6, count / alone / 1e9, 32 * count / batch / 1e9, most / 1e9)
        print(f"| {what}, {system.name} |", " | ".join(f"{x:.3g}" for x in rates), "|", flush=True)
    if expansion.n_parameters < 100:
        return  # too little for a call to show the rate
    errors = force_field._errors
    matrices = force_field._factor.packed(errors._classes, np.dtype(np.float32))
    rate = product_rate(matrices, 0, len(errors._classes.parameters[0])) / 1e9
    print(f"| product with the factor, {system.name} | {products / 1e6:.3g} | {rate:.3g} | |"
          f" {limits[1] / 1e9:.3g} |")  # fmt: skip


if __name__ == "__main__":
    main()
