"""``python -m sb3_sgmrl.plot``, see :mod:`sb3_sgmrl.cli.plot`."""

from sb3_sgmrl.cli.command_line import run_program
from sb3_sgmrl.cli.plot import main

if __name__ == "__main__":
    run_program(main)
