"""How much memory a model needs at each stage, from the size of its expansion.

The constants count the arrays that are alive at the same time in this version of the code;
`benchmarks/memory.py` compares the sums with what processes really use.
"""

from __future__ import annotations

from dataclasses import dataclass

from anharm.model.expansion_size import ExpansionSize

_BYTES = 8
_PROCESS = 220 << 20  # Python, its libraries and compiled kernels
_KEPT_ROWS = 512 << 20  # design rows of earlier labels beyond this are computed again
_BYTES_PER_MONOMIAL_AND_FACTOR = 180  # while a forest of monomials is compiled
_BYTES_PER_LANE = 4 * 64  # the lanes of a block, in single precision


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of each stage, bytes.

    Attributes
    ----------
    process : int
        A Python process that does nothing yet.
    construction : int
        Clusters, symmetry and sum rules.
    evaluation : int
        Compiled monomials and neighbours of the supercell.
    design_rows : int
        Of one structure.
    kept_rows : int
        Of earlier labels.
    statistics : int
        The sufficient statistics, a triangle of (M + 1)^2 numbers.
    refit : int
        Matrices of a refit beyond that.
    model_file : int
    force_errors : int
        Factors of the posterior, polynomials of the design rows, and rows of a block of lanes.
    """

    process: int
    construction: int
    evaluation: int
    design_rows: int
    kept_rows: int
    statistics: int
    refit: int
    model_file: int
    force_errors: int

    @property
    def fit(self) -> int:
        """Peak of a process that builds the expansion and fits once."""
        kept = self.evaluation + self.kept_rows + self.statistics
        training = kept + max(self.design_rows, self.refit + 2 * self.model_file)
        return self.process + max(self.construction, self.construction // 2 + training)

    @property
    def broker(self) -> int:
        """Peak of a process that fits while the last model is in use."""
        return self.fit + self.force_errors + self.model_file

    @property
    def client(self) -> int:
        """Peak of a lattice client that changes from one model to the next."""
        models = self.force_errors + 3 * self.model_file
        return self.process + self.construction // 2 + self.evaluation + models

    @property
    def run(self) -> int:
        """All processes of a run with one lattice client, without reference clients and i-PI."""
        return self.process + self.construction + self.broker + self.client


def estimate_memory(size: ExpansionSize, n_atoms: int, n_labels: int) -> MemoryEstimate:
    """Estimate the memory of each stage.

    Parameters
    ----------
    size : ExpansionSize
    n_atoms : int
        Atoms of the supercell.
    n_labels : int
        Labels in all.
    """
    n_parameters = size.n_parameters
    n_unconstrained = sum(size.unconstrained.values())
    n_monomials = sum(size.monomials.values())
    square = _BYTES * (n_parameters + 1) ** 2
    row = _BYTES * 3 * n_atoms
    compiling = sum(
        _BYTES_PER_MONOMIAL_AND_FACTOR * max(size.monomials) * count
        for count in size.monomials.values()
    )
    pairs = round(90 * n_atoms * size.neighbours_per_site)
    return MemoryEstimate(
        process=_PROCESS,
        construction=250 * n_monomials + 7 * max(n * n for n in size.unconstrained.values()),
        evaluation=compiling + pairs,
        design_rows=row * (n_unconstrained + 4 * n_parameters) + 4 * square,
        kept_rows=min(_KEPT_ROWS, row * n_parameters * n_labels),
        statistics=3 * square,
        refit=8 * square,
        model_file=square,
        force_errors=5 * square
        + compiling
        + _BYTES_PER_LANE * 3 * size.n_sites * (n_unconstrained + n_parameters),
    )
