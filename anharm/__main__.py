"""`python -m anharm` is the `anharm` command."""

from anharm.command_line import main

if __name__ == "__main__":
    main()
