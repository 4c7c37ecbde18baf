"""``python -m sb3_sgmrl.enjoy``, see :mod:`sb3_sgmrl.cli.enjoy`."""

import sys

from sb3_sgmrl.cli.enjoy import main

if __name__ == "__main__":
    sys.exit(main())
