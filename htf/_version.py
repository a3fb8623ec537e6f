"""Version of the library; imports nothing, so that every module can record it."""

__version__ = "0.2.0"
