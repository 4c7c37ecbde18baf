"""``python -m sb3_sgmrl.card``, see :mod:`sb3_sgmrl.cli.card`."""

import sys

from sb3_sgmrl.cli.card import main

if __name__ == "__main__":
    sys.exit(main())
