"""From a fresh clone to a finished job: `python3 start.py run`, `python3 start.py test`.

Makes a virtual environment in .venv beside this file, installs anharm into it once, and runs the
command. Needs Python 3.11 or newer and access to the Python package index; no compiler.
"""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "installed"

UNSORTED = ["--no-loadscope-reorder"]  # the slow tests of end_to_end/ come early
JOBS = {
    "run": [["-m", "anharm", "run", "inputs/si/run.toml"]],
    "run-qe": [["-m", "anharm", "run", "inputs/si/run-qe.toml"]],
    # On several cores; tests of one file stay together: they share fixtures that take long to make.
    "test": [["-m", "pytest", "-n", "logical", "--maxprocesses=4", "--dist=loadfile", *UNSORTED]],
    "lint": [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        [".ci/check_types.py"],
    ],
    "install": [],
}


def install() -> None:
    """Make the environment and install the package with its test tools, if not done before."""
    wanted = hashlib.sha256((HERE / "pyproject.toml").read_bytes()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    print(f"installing anharm into {ENVIRONMENT} (once)", flush=True)  # noqa: T201
    venv.create(ENVIRONMENT, with_pip=True, clear=False)
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "install", "--only-binary=:all:", "--editable", f"{HERE}[test]"], check=True
    )
    STAMP.write_text(wanted)


def main() -> int:
    """Install if needed, then run one job; further words go to its last command."""
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(f"start.py: Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    if len(sys.argv) < 2 or sys.argv[1] not in JOBS:
        sys.exit(f"usage: python3 start.py {{{'|'.join(JOBS)}}} [more arguments]")
    try:
        install()
    except subprocess.CalledProcessError as error:
        sys.exit(f"start.py: the installation failed with exit code {error.returncode}")
    commands = JOBS[sys.argv[1]]
    for number, command in enumerate(commands, start=1):
        extra = sys.argv[2:] if number == len(commands) else []
        code = subprocess.run([PYTHON, *command, *extra], cwd=HERE).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
