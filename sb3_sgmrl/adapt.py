"""``python -m sb3_sgmrl.adapt``, see :mod:`sb3_sgmrl.cli.adapt`."""

from sb3_sgmrl.cli.adapt import main
from sb3_sgmrl.cli.command_line import run_program

if __name__ == "__main__":
    run_program(main)
