"""What <pes_path> of i-PI's <ffdirect> names; `anharm pes-path` prints where it is."""

from anharm.clients.engine_pes import LatticePES  # noqa: F401

__DRIVER_NAME__ = "anharm"
__DRIVER_CLASS__ = "LatticePES"
