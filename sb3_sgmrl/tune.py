"""``python -m sb3_sgmrl.tune``, see :mod:`sb3_sgmrl.cli.tune`."""

from sb3_sgmrl.cli.command_line import run_program
from sb3_sgmrl.cli.tune import main

if __name__ == "__main__":
    run_program(main)
