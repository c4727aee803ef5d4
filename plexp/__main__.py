"""python -m plexp"""

import sys

from plexp.cli import main

sys.exit(main())
