"""Many long jobs, one after another, in local processes or on a cluster, of which none is lost."""

from htf._moved import moved
from htf.jobs._work import Progress
from htf.jobs.folder import FolderJob, collect
from htf.jobs.mapping import claimed, map_jobs

__all__ = ["FolderJob", "Progress", "claimed", "collect", "map_jobs"]

__getattr__ = moved(__name__, {"Report": "Progress"})
