"""`python -m sagastream.cli`."""

import sys

from sagastream.cli.main import main

sys.exit(main())
