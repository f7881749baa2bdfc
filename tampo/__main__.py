"""`python -m tampo`, the same as `tampo`."""

import sys

from tampo.cli import main

sys.exit(main())
