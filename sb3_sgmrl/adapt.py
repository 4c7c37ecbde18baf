"""``python -m sb3_sgmrl.adapt``, see :mod:`sb3_sgmrl.cli.adapt`."""

import sys

from sb3_sgmrl.cli.adapt import main

if __name__ == "__main__":
    sys.exit(main())
