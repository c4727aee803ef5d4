"""The version of plexp."""

__version__ = "0.1.0"
