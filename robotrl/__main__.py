"""`python -m robotrl` is the `robotrl` command."""

import sys

from robotrl.cli import main

sys.exit(main())
