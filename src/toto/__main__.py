"""`python -m toto` and `torchrun -m toto` are the `toto` command."""

from toto.cli import main

main()
