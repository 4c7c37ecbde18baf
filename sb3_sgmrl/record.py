"""``python -m sb3_sgmrl.record``, see :mod:`sb3_sgmrl.cli.record`."""

from sb3_sgmrl.cli.command_line import run_program
from sb3_sgmrl.cli.record import main

if __name__ == "__main__":
    run_program(main)
