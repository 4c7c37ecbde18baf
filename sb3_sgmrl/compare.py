"""``python -m sb3_sgmrl.compare``, see :mod:`sb3_sgmrl.cli.compare.command`."""

from sb3_sgmrl.cli.command_line import run_program
from sb3_sgmrl.cli.compare.command import main

if __name__ == "__main__":
    run_program(main)
