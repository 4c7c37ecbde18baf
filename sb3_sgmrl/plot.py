"""``python -m sb3_sgmrl.plot``, see :mod:`sb3_sgmrl.cli.plot`."""

import sys

from sb3_sgmrl.cli.plot import main

if __name__ == "__main__":
    sys.exit(main())
