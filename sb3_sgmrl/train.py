"""``python -m sb3_sgmrl.train``, see :mod:`sb3_sgmrl.cli.train`."""

import sys

from sb3_sgmrl.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
