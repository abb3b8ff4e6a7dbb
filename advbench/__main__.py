"""`python -m advbench` is the command `advbench`."""

import sys

from advbench.cli import main

sys.exit(main())
