"""Bayesian lattice-dynamics force fields, trained while i-PI runs."""

from anharm._version import __version__

__all__ = ["__version__"]
