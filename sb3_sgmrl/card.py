"""``python -m sb3_sgmrl.card``, see :mod:`sb3_sgmrl.cli.card`."""

from sb3_sgmrl.cli.card import main
from sb3_sgmrl.cli.command_line import run_program

if __name__ == "__main__":
    run_program(main)
