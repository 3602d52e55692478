"""Mean squared displacement of every frame of an i-PI trajectory, Angstrom^2, a line each.

python mean_square_displacement.py si.pos_0.xyz init.xyz > msd.dat
"""

import sys

import numpy as np
from ase.io import iread, read

trajectory, ideal = sys.argv[1:]
sites = read(ideal).positions
displacements = np.array([frame.positions - sites for frame in iread(trajectory, index=":")])
displacements -= displacements.mean(axis=1, keepdims=True)  # the crystal as a whole may drift
np.savetxt(sys.stdout, np.sum(displacements**2, axis=2).mean(axis=1))
