"""``python -m sb3_sgmrl.check``, see :mod:`sb3_sgmrl.cli.check`."""

from sb3_sgmrl.cli.check import main
from sb3_sgmrl.cli.command_line import run_program

if __name__ == "__main__":
    run_program(main)
