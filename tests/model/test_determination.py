"""Which orders the labels determine, as a physicist would expect from the displacements."""

from __future__ import annotations

import numpy as np
import pytest

from anharm.model import BayesianModel, LatticeSum, Supercell, Trainer, build_expansion
from anharm.model.determination import (
    Determination,
    describe_determination,
    describe_lack_of_data,
    find_determination,
)

MATRIX = np.array([[-2, 2, 2], [2, -2, 2], [2, 2, -2]])
NOISE = 1e-3  # eV/Angstrom
THERMAL = 0.05  # Angstrom


class Reference:
    """Silicon with constants that grow by 4 per Angstrom from order to order."""

    def __init__(self, laboratory, cutoffs: dict) -> None:
        self.expansion = build_expansion(laboratory.crystal("silicon"), cutoffs)
        self.supercell = Supercell(self.expansion.crystal, MATRIX)
        self._sum = LatticeSum(self.expansion, self.supercell)
        scale = 5 * 4.0 ** (self.expansion.parameter_orders - 2)
        self._random = np.random.default_rng(0)
        self._parameters = scale * self._random.standard_normal(len(scale))

    def displaced(self, size: float) -> np.ndarray:
        return self._random.normal(0, size, (self.supercell.n_atoms, 3))

    def learn(self, *displacements: np.ndarray, noise: float = NOISE) -> BayesianModel:
        trainer = Trainer(self.expansion)
        for u in displacements:
            forces = (self._sum.force_rows(u) @ self._parameters).reshape(-1, 3)
            forces += self._random.normal(0, noise, forces.shape)
            trainer.add(self.supercell.lattice, self.supercell.positions + u, forces)
        return trainer.fit()

    def determination(self, *displacements: np.ndarray) -> dict[int, Determination]:
        model = self.learn(*displacements)
        return find_determination(model.posterior, self.expansion.parameter_orders)


@pytest.fixture
def reference(laboratory) -> Reference:
    return Reference(laboratory, {2: 5.0, 3: 4.0, 4: 3.5})


def test_thermal_displacements_determine_everything(reference: Reference) -> None:
    found = reference.determination(*[reference.displaced(THERMAL) for _ in range(3)])
    assert found == {
        2: Determination(10, 10, 0), 3: Determination(27, 27, 0), 4: Determination(4, 4, 0),
    }  # fmt: skip
    assert describe_lack_of_data(found) == []
    assert describe_determination(found)[1] == (
        "order 3: 27 of 27 parameters determined by the labels"
    )


def test_labels_of_the_ideal_crystal_determine_nothing(reference: Reference) -> None:
    found = reference.determination(np.zeros((64, 3)))
    assert [(one.determined, one.unseen) for one in found.values()] == [(0, 10), (0, 27), (0, 4)]
    for order, line in zip((2, 3, 4), describe_lack_of_data(found), strict=True):
        assert line.startswith(f"order {order} is not determined by the labels")
        assert "larger displacements" in line


@pytest.mark.parametrize("everywhere", [False, True])
def test_small_displacements_determine_the_second_order_only(
    reference: Reference, everywhere: bool
) -> None:
    u = np.zeros((64, 3))
    u[0, 0] = 0.01
    found = reference.determination(reference.displaced(1e-3) if everywhere else u)
    assert found[2].is_sufficient
    assert found[3].determined == found[4].determined == 0
    assert [line[:7] for line in describe_lack_of_data(found)] == ["order 3", "order 4"]


def test_one_atom_displaced_far_shows_only_what_touches_it_alone(reference: Reference) -> None:
    """Third-order terms in the displacement of one atom along x: 7 of 27."""
    u = np.zeros((64, 3))
    u[0, 0] = 0.1
    found = reference.determination(u)
    assert found[3] == Determination(27, 7, 20)
    text = describe_lack_of_data(found)[0]
    assert "order 3 lacks data: the labels determine 7 of its 27 parameters" in text
    assert "say nothing about 20" in text
    assert "lower the cutoff of order 3" in text


def test_fewer_forces_than_parameters_leave_some_to_the_prior(laboratory) -> None:
    """192 forces, 673 parameters."""
    reference = Reference(laboratory, {2: 5.0, 3: 5.0, 4: 5.0})
    assert reference.expansion.n_parameters == 673
    found = reference.determination(reference.displaced(THERMAL))
    assert 150 < sum(one.determined for one in found.values()) < 210
    assert not found[4].is_sufficient
    assert found[4].unseen > 300


def test_what_labels_cannot_tell_apart_is_not_determined(reference: Reference) -> None:
    """The effective number of parameters is the sum over directions that is cut at one half."""
    model = reference.learn(reference.displaced(0.01))
    found = find_determination(model.posterior, reference.expansion.parameter_orders)
    for order, gamma in model.posterior.effective_parameters.items():
        one = found[order]
        assert one.determined / 2 <= gamma + 1e-6
        assert one.parameters - gamma + 1e-6 >= (one.parameters - one.determined) / 2
