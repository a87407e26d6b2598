"""`python -m amlocal.emulator.cli` is `amlocal`."""

from amlocal.emulator.cli import main

main()
