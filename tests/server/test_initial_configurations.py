"""What is labelled before the dynamics: first small displacements, then thermal ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest

from anharm.clients.calculators import make_calculator
from anharm.configuration import RunConfiguration, load_configuration
from anharm.errors import ConfigurationError
from anharm.model import Crystal, ForceField, Supercell, build_expansion, fit_structures
from anharm.model.thermal_displacements import guess_phonons, thermal_phonons
from anharm.server.engine_runs import ideal_configuration, read_engine_runs
from anharm.server.initial_configurations import InitialConfigurations

INPUTS = Path(__file__).parents[2] / "inputs" / "si"


@pytest.fixture
def initial(tmp_path: Path):
    """Make the initial configurations of the silicon job with other settings."""
    for name in ("input.xml", "init.xyz", "primitive.xyz", "run.toml"):
        (tmp_path / name).write_text((INPUTS / name).read_text())

    def make(temperature: str | None = "300", beads: int = 1, **training: object):
        text = (INPUTS / "input.xml").read_text().replace("nbeads='1'", f"nbeads='{beads}'")
        ensemble = "<temperature units='kelvin'> 300 </temperature>"
        assert ensemble in text
        new = "" if temperature is None else ensemble.replace("300", temperature)
        (tmp_path / "input.xml").write_text(text.replace(ensemble, new))
        configuration = load_configuration(tmp_path / "run.toml")
        settings = configuration.training.model_copy(update=training)
        configuration = configuration.model_copy(update={"training": settings})
        engines = read_engine_runs(configuration)
        system = SimpleNamespace(supercell=silicon_supercell(configuration))
        ideal = ideal_configuration(engines, system)
        return InitialConfigurations.of(configuration, engines, system, ideal)

    return make


def silicon_supercell(configuration: RunConfiguration) -> Supercell:
    crystal = Crystal.from_atoms(ase.io.read(configuration.crystal.primitive))
    return Supercell(crystal, np.array(configuration.crystal.supercell))


@pytest.fixture(scope="module")
def force_field() -> ForceField:
    """What the Tersoff potential teaches about one thermal configuration of the supercell."""
    supercell = silicon_supercell(load_configuration(INPUTS / "run.toml"))
    structure = supercell.to_atoms()
    structure.positions += guess_phonons(supercell).draw(300.0, 1, np.random.default_rng(0))[0]
    structure.calc = make_calculator("tersoff-silicon")
    structure.get_forces()
    expansion = build_expansion(supercell.crystal, {2: 3.9, 3: 2.6})
    return ForceField(fit_structures(expansion, [structure]), supercell)


def asked(initial: InitialConfigurations, force_field: ForceField) -> list[int]:
    """Sizes of the stages until there are enough."""
    sizes: list[int] = []
    while stage := initial.stage(sum(sizes), force_field if sizes else None):
        sizes.append(len(stage))
    return sizes


@pytest.mark.parametrize(
    ("number", "sizes"), [(1, [1]), (2, [1, 1]), (4, [1, 1, 2]), (7, [1, 1, 2, 3])]
)
def test_each_stage_doubles_the_labels(initial, force_field, number, sizes) -> None:
    assert asked(initial(initial_configurations=number), force_field) == sizes


def test_uncorrelated_displacements_need_no_model_and_come_at_once(initial) -> None:
    few = initial(initial_sampling="gaussian", initial_configurations=3, initial_displacement=0.02)
    stage = few.stage(0, None)
    assert len(stage) == 3
    moved = np.array(stage) - few.ideal.positions
    assert moved.std() == pytest.approx(0.02, rel=0.1)
    # A run that is resumed after two of them asks for the same third one.
    assert np.array_equal(few.stage(2, None), stage[2:])


def test_all_displacements_have_thermal_size_from_the_first_one_on(initial, force_field) -> None:
    few = initial(initial_configurations=20)
    exact = thermal_phonons(force_field.model, few.assignment.supercell).draw(
        300.0, 200, np.random.default_rng(0)
    )
    guess = few.stage(0, None)[0] - few.ideal.positions
    learnt = np.array(few.stage(10, force_field)) - few.ideal.positions
    assert len(learnt) == 10
    assert exact.std() / 2 < guess.std() < 2 * exact.std()
    assert learnt.std() == pytest.approx(exact.std(), rel=0.15)


def test_the_size_of_the_first_displacements_can_be_given(initial) -> None:
    moved = [
        few.stage(0, None)[0] - few.ideal.positions
        for few in (initial(), initial(initial_displacement=0.02))
    ]
    assert np.sqrt(np.mean(moved[1] ** 2)) == pytest.approx(0.02)
    assert moved[0] / moved[1] == pytest.approx(np.full((64, 3), np.mean(moved[0] / moved[1])))


def test_displacements_follow_the_temperature_of_the_dynamics(initial) -> None:
    cold, hot = initial("20"), initial("80")
    moved = [one.stage(0, None)[0] - one.ideal.positions for one in (cold, hot)]
    assert moved[1] == pytest.approx(2 * moved[0], rel=1e-9)
    assert initial("20", initial_temperature=80.0).temperature == 80.0


def test_path_integrals_begin_with_quantum_displacements(initial) -> None:
    assert not initial().quantum
    assert initial(beads=4).quantum


def test_an_unknown_temperature_is_asked_for(initial) -> None:
    with pytest.raises(ConfigurationError, match=r"training\.initial_temperature = 300"):
        initial(temperature=None, initial_sampling="thermal")
    assert initial(temperature=None).temperature is None  # displaced at random
    assert initial(temperature="0").temperature is None  # as an optimisation may say
    assert initial(temperature=None, initial_temperature=300.0).temperature == 300.0
    assert initial(temperature=None, initial_sampling="gaussian").temperature is None


def test_no_atom_leaves_its_site(initial, caplog) -> None:
    hot = initial("300000")
    moved = hot.stage(0, None)[0] - hot.ideal.positions
    largest = np.linalg.norm(moved, axis=-1).max()
    assert largest == pytest.approx(0.9 * hot.assignment.maximum_displacement)
    assert "scaled down" in caplog.text


def test_the_same_seed_asks_for_the_same_again(initial, force_field) -> None:
    first, again, other = initial(), initial(), initial(seed=5)
    for n_asked, known in ((0, None), (1, force_field)):
        stages = [one.stage(n_asked, known)[0] for one in (first, again, other)]
        assert np.array_equal(stages[0], stages[1])
        assert not np.array_equal(stages[0], stages[2])
