"""The Bayesian lattice-dynamics model: the physics, with no sockets, clocks or processes.

>>> from anharm.model import Crystal, build_expansion, fit_structures, LatticeCalculator
>>> crystal = Crystal.from_atoms(primitive)  # doctest: +SKIP
>>> expansion = build_expansion(crystal, {2: 5.0, 3: 4.0, 4: 3.5})  # doctest: +SKIP
>>> model = fit_structures(expansion, labelled_structures)  # doctest: +SKIP
"""

from anharm.model.bayesian_model import BayesianModel
from anharm.model.crystal import Crystal, Supercell
from anharm.model.expansion import Expansion, build_expansion
from anharm.model.force_field import ForceField, Prediction
from anharm.model.lattice_sum import DesignRows, LatticeSum
from anharm.model.prediction import LatticeCalculator, StructurePredictor
from anharm.model.regression import Posterior, maximise_evidence
from anharm.model.storage import load_model, save_model
from anharm.model.sufficient_statistics import SufficientStatistics
from anharm.model.training import Trainer, fit_structures

__all__ = [
    "BayesianModel",
    "Crystal",
    "DesignRows",
    "Expansion",
    "ForceField",
    "LatticeCalculator",
    "LatticeSum",
    "Posterior",
    "Prediction",
    "StructurePredictor",
    "SufficientStatistics",
    "Supercell",
    "Trainer",
    "build_expansion",
    "fit_structures",
    "load_model",
    "maximise_evidence",
    "save_model",
]
