"""Many long jobs, one after another, in local processes or on a cluster, of which none is lost."""

from htf.jobs._work import Report
from htf.jobs.mapping import claimed, map_jobs

__all__ = ["Report", "claimed", "map_jobs"]
