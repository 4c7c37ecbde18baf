"""``python -m sb3_sgmrl.tune``, see :mod:`sb3_sgmrl.cli.tune`."""

import sys

from sb3_sgmrl.cli.tune import main

if __name__ == "__main__":
    sys.exit(main())
