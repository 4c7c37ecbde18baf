"""``python -m sb3_sgmrl.record``, see :mod:`sb3_sgmrl.cli.record`."""

import sys

from sb3_sgmrl.cli.record import main

if __name__ == "__main__":
    sys.exit(main())
