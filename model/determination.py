"""Which orders of an expansion the labels determine, and which only the prior does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anharm.model.crystal import IntArray
from anharm.model.regression import Posterior

_DETERMINED = 0.5  # of the prior's variance: below it, the labels say more than the prior
_UNSEEN = 1 - 1e-6  # of the prior's variance: above it, the labels say nothing at all
_ENOUGH = 0.5  # of an order's parameters; fewer are worth a warning


@dataclass(frozen=True)
class Determination:
    """What the labels say about the parameters of one order.

    Attributes
    ----------
    parameters : int
        Parameters of the order.
    determined : int
        Independent combinations of them about which the labels say more than the prior.
    unseen : int
        Combinations about which they say nothing.
    """

    parameters: int
    determined: int
    unseen: int

    @property
    def is_sufficient(self) -> bool:
        """Whether most parameters are determined and none is left to the prior alone."""
        return self.unseen == 0 and self.determined >= _ENOUGH * self.parameters


def find_determination(
    posterior: Posterior, parameter_orders: IntArray
) -> dict[int, Determination]:
    """Compare the posterior's covariance with the prior's, order by order.

    The eigenvalues of alpha_n S_nn are the variances that the labels leave, in units of the
    prior's, of independent combinations of the parameters of order n: 0 where the labels decide
    and 1 where they say nothing. All other orders are uncertain at the same time, so a combination
    that the labels cannot tell from one of another order does not count as determined. (MacKay's
    gamma_n, `Posterior.effective_parameters`, is the sum of one minus each.)

    Parameters
    ----------
    posterior : Posterior
    parameter_orders : (M,) int
        Order of each parameter.

    Returns
    -------
    dict
        Order -> Determination.
    """
    found = {}
    for order, precision in posterior.prior_precisions.items():
        members = np.flatnonzero(parameter_orders == order)
        if posterior.effective_parameters[order] > len(members) - _DETERMINED:
            found[order] = Determination(len(members), len(members), 0)  # none can be above half
            continue
        root = np.sqrt(precision) * posterior.factor[members]
        left = np.linalg.eigvalsh(root @ root.T)
        found[order] = Determination(
            len(members), int(np.sum(left < _DETERMINED)), int(np.sum(left > _UNSEEN))
        )
    return found


def describe_determination(found: Mapping[int, Determination]) -> list[str]:
    """One line per order."""
    return [
        f"order {order}: {one.determined} of {one.parameters} parameters determined by the labels"
        for order, one in found.items()
    ]


def describe_lack_of_data(found: Mapping[int, Determination]) -> list[str]:
    """One sentence for each order that lacks data, with what to do about it."""
    return [_lack_of_data(order, one) for order, one in found.items() if not one.is_sufficient]


def _lack_of_data(order: int, one: Determination) -> str:
    if not one.determined:
        return (
            f"order {order} is not determined by the labels: none of its {one.parameters} "
            "parameters stands out of their noise. Add labels with larger displacements (of "
            f"thermal size), or leave order {order} out"
        )
    unseen = f" and say nothing about {one.unseen}" if one.unseen else ""
    return (
        f"order {order} lacks data: the labels determine {one.determined} of its "
        f"{one.parameters} parameters{unseen}; the prior decides the others. Add labels, with "
        f"displacements of thermal size, or lower the cutoff of order {order}"
    )
