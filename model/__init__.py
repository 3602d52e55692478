"""The Bayesian lattice-dynamics model: the physics, with no sockets, clocks or processes."""
