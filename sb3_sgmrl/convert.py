"""``python -m sb3_sgmrl.convert``, see :mod:`sb3_sgmrl.cli.convert`."""

from sb3_sgmrl.cli.command_line import run_program
from sb3_sgmrl.cli.convert import main

if __name__ == "__main__":
    run_program(main)
