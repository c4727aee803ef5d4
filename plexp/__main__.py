"""Runs the command line: python -m plexp."""

import sys

from plexp.cli.main import main

sys.exit(main())
