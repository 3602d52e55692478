"""The `anharm` command as a program; `python -m anharm` is the same."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends with a line already while it is imported."""
    try:
        from anharm.command_line import main as run

        run()
    except KeyboardInterrupt:
        sys.exit("anharm: interrupted")


if __name__ == "__main__":
    main()
