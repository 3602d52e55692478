"""Force components whose design rows have the same parameters in them.

A parameter whose clusters do not contain a site has no part in the forces on it, and symmetry
leaves out more, axis by axis. The variance of a force component then needs the covariance of the
other parameters alone: each class of components that the same parameters touch gets a factor of
its own, smaller than that of all parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from anharm.model.crystal import IntArray

# All factors together may have so many times the numbers of one for all parameters.
_MOST_NUMBERS = 2


@dataclass(frozen=True, eq=False)
class ComponentClasses:
    """A partition of the force components (site * 3 + axis) of a primitive cell.

    Attributes
    ----------
    components : tuple of (n,) int
        Of each class, ascending.
    parameters : tuple of (n,) int
        The parameters that touch any component of the class, ascending.
    """

    components: tuple[IntArray, ...]
    parameters: tuple[IntArray, ...]

    @classmethod
    def of(cls, touched: NDArray[np.bool_]) -> ComponentClasses:
        """Classes of components with the same parameters, or nearly, where there are many.

        Parameters
        ----------
        touched : (n_parameters, n_components) bool
            Whether a parameter has any part in a force component.
        """
        sets, numbers = np.unique(touched, axis=1, return_inverse=True)
        numbers = numbers.ravel()
        while (sets.sum(axis=0) ** 2).sum() > _MOST_NUMBERS * len(touched) ** 2:
            kept, merged = _most_alike(sets)
            sets[:, kept] |= sets[:, merged]
            sets = np.delete(sets, merged, axis=1)
            numbers[numbers == merged] = kept
            numbers[numbers > merged] -= 1
        n_classes = sets.shape[1]
        components = tuple(np.flatnonzero(numbers == number) for number in range(n_classes))
        return cls(components, tuple(np.flatnonzero(one) for one in sets.T))

    @property
    def largest(self) -> int:
        """Most design rows of one class times their length."""
        return max(len(x) * len(y) for x, y in zip(self.components, self.parameters, strict=True))


@dataclass(frozen=True)
class FreeRows:
    """Where the rows of symmetry-allowed parameters are kept, and which of them are combined.

    Attributes
    ----------
    places : (n_allowed, n_components) int
        Class after class, the components of a class next to each other; -1 where no component of
        the class needs the parameter.
    n_rows : int
    combinations : (rows of all classes, n_rows) sparse float
        To the parameters of each class, class after class, from the rows of the first component
        of the class.
    """

    places: IntArray
    n_rows: int
    combinations: csr_array

    @classmethod
    def of(
        cls, classes: ComponentClasses, combinations: csr_array, is_used: NDArray[np.bool_]
    ) -> FreeRows:
        """Leave out what is zero for all components of a class.

        Parameters
        ----------
        classes : ComponentClasses
        combinations : (n_parameters, n_allowed) sparse float
        is_used : (n_allowed, n_components) bool
            Whether a symmetry-allowed parameter has any part in a force component.
        """
        places = np.full(is_used.shape, -1)
        lengths, columns, values = [np.zeros(1, dtype=int)], [], []
        n_rows = 0
        for components, parameters in zip(classes.components, classes.parameters, strict=True):
            allowed = np.flatnonzero(is_used[:, components].any(axis=1))
            rows = np.arange(n_rows, n_rows + len(allowed) * len(components))
            places[np.ix_(allowed, components)] = rows.reshape(-1, len(components))
            n_rows += len(rows)
            wanted = combinations[parameters][:, allowed]
            lengths.append(np.diff(wanted.indptr))
            columns.append(places[allowed, components[0]][wanted.indices])
            values.append(wanted.data)
        starts = np.cumsum(np.concatenate(lengths))
        arrays = np.concatenate(values), np.concatenate(columns), starts
        return cls(places, n_rows, csr_array(arrays, shape=(len(starts) - 1, n_rows)))


def touched_components(combinations: csr_array, is_used: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n_parameters, n_components) whether a combination of rows has a part in a component.

    Parameters
    ----------
    combinations : (n_parameters, n_allowed) sparse float
    is_used : (n_allowed, n_components) bool
        Whether a symmetry-allowed parameter has any part in a force component.
    """
    found: NDArray[np.bool_] = abs(combinations) @ is_used.astype(float) > 0
    return found


def _most_alike(sets: NDArray[np.bool_]) -> tuple[int, int]:
    """The two of some sets (columns) whose union saves the most numbers of their factors."""
    both = sets.T.astype(float) @ sets
    sizes = np.diag(both)
    unions = sizes[:, None] + sizes - both
    saved = sizes[:, None] ** 2 + sizes**2 - unions**2
    saved[np.tril_indices(len(saved))] = -np.inf
    kept, merged = np.unravel_index(np.argmax(saved), saved.shape)
    return int(kept), int(merged)
