"""Many long jobs, one after another, in local processes or on a cluster, of which none is lost."""

from htf.jobs._work import Report
from htf.jobs.folder import FolderJob, collect
from htf.jobs.mapping import claimed, map_jobs

__all__ = ["FolderJob", "Report", "claimed", "collect", "map_jobs"]
