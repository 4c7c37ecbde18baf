"""``python -m sb3_sgmrl.check``, see :mod:`sb3_sgmrl.cli.check`."""

import sys

from sb3_sgmrl.cli.check import main

if __name__ == "__main__":
    sys.exit(main())
