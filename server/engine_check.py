"""Whether i-PI can read an input: asked of its own parser, before any label is computed."""

import io
import re
from contextlib import chdir, redirect_stdout
from pathlib import Path

from ipi.inputs.simulation import InputSimulation
from ipi.utils.io.inputs.io_xml import xml_parse_file

from anharm.errors import ConfigurationError


def check_i_pi_reads(path: Path) -> None:
    """Parse an input as i-PI does, without what it would then set up.

    Words that are none of the options of an element are noticed only when i-PI starts.

    Raises
    ------
    ConfigurationError
        In the words of i-PI: an element, an attribute or a number that it does not understand.
    """
    try:
        with (
            redirect_stdout(io.StringIO()) as printed,
            open(path, encoding="utf-8") as file,
            chdir(path.parent),  # some elements name a file of numbers, which is read at once
        ):
            InputSimulation().parse(xml_parse_file(file).fields[0][1])
    except Exception as error:  # its parsers raise almost any kind of exception
        where = re.sub(r" from <[^>]*>", ":", printed.getvalue())  # an address in its memory
        reason = " ".join([*where.split(), str(error) or type(error).__name__])
        raise ConfigurationError(f"{path}: i-PI cannot read this input: {reason}") from error
