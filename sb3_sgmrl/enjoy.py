"""``python -m sb3_sgmrl.enjoy``, see :mod:`sb3_sgmrl.cli.enjoy`."""

from sb3_sgmrl.cli.command_line import run_program
from sb3_sgmrl.cli.enjoy import main

if __name__ == "__main__":
    run_program(main)
