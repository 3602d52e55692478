"""Whether i-PI can read an input: asked of its own parser, before any label is computed."""

import io
import re
from contextlib import chdir, redirect_stdout
from pathlib import Path

from ipi.inputs.simulation import InputSimulation
from ipi.utils.inputvalue import Input, InputArray, InputAttribute, InputValue
from ipi.utils.io.inputs.io_xml import xml_parse_file

from anharm.errors import ConfigurationError


def check_i_pi_reads(path: Path) -> None:
    """Parse an input as i-PI does, and check its options, without what i-PI would then set up.

    Raises
    ------
    ConfigurationError
        In the words of i-PI: an element, an attribute, an option, a unit or a number that it does
        not understand.
    """
    simulation = InputSimulation()
    printed = io.StringIO()
    try:
        with (
            redirect_stdout(printed),
            open(path, encoding="utf-8") as file,
            chdir(path.parent),  # some elements name a file of numbers, which is read at once
        ):
            simulation.parse(xml_parse_file(file).fields[0][1])
        with redirect_stdout(io.StringIO()):  # nothing that the error would not say
            _check(simulation)
    except Exception as error:  # its parsers raise almost any kind of exception
        where = re.sub(r" from <[^>]*>", ":", printed.getvalue())  # an address in its memory
        reason = " ".join([*where.split(), str(error) or type(error).__name__])
        raise ConfigurationError(f"{path}: i-PI cannot read this input: {reason}") from error


def _check(element: Input, name: str = "") -> None:
    """Check the options and the units that an input gives, in an element and all inside it.

    i-PI's parser takes any word for them, and i-PI looks at it when it makes something of it.
    """
    try:
        if type(element) in (InputAttribute, InputValue, InputArray):
            element.fetch()  # in i-PI's own units, and nothing more
        elif isinstance(element, InputAttribute):
            element.check()  # `fetch` would make an object of it
    except Exception as error:  # any kind, as above
        raise ValueError(f"{name}: {error}") from error
    fields = [*element.attribs, *element.instancefields]
    for field, inner in [*((f, getattr(element, f)) for f in fields), *element.extra]:
        if inner._explicit:
            _check(inner, f"{name} {field}".strip())
