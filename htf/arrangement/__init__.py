"""Orders, grids and trees on which data are little entangled, found from the data."""

from htf.arrangement.arrange import METHODS, Arrangement, arrange

__all__ = ["METHODS", "Arrangement", "arrange"]
