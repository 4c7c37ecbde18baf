"""``python -m sb3_sgmrl.train``, see :mod:`sb3_sgmrl.cli.train`."""

from sb3_sgmrl.cli.command_line import run_program
from sb3_sgmrl.cli.train import main

if __name__ == "__main__":
    run_program(main)
