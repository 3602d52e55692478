"""Run mypy on the package as it will be installed.

The folders of the repository are mapped to `anharm.*` on installation, which mypy cannot follow in
a checkout; so it gets a temporary tree of links that has the installed shape.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Build the tree, run mypy in it, return its exit code."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = settings["tool"]["setuptools"]["package-dir"]
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        for package, folder in sorted(folders.items()):
            target = tree.joinpath(*package.split("."))
            target.mkdir(parents=True)
            for file in (ROOT / folder).iterdir():
                if file.is_file():
                    (target / file.name).symlink_to(file)
        command = ["-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "anharm"]
        return subprocess.run(
            [sys.executable, *command, "--cache-dir", str(ROOT / ".mypy_cache")], cwd=tree
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
