"""The sandbox: what a script may do, as a value; and a bubblewrap that holds it to that.

``plan`` makes a ``Launch`` of a job, a policy and a machine; ``run`` runs it.  The rooms:

- ``policy``, ``secrets``: what a script may do and use; data
- ``machine``: what this machine offers, found once
- ``plan``, ``seccomp``, ``interpreter``: pure
- ``look``: what must be looked at before each run
- ``cgroup``: limits, and an end for everything that was started
- ``launch``, ``run``: processes
"""

from goexfsd.sandbox import cgroup
from goexfsd.sandbox.cgroup import CgroupRoot
from goexfsd.sandbox.machine import Machine, find_machine
from goexfsd.sandbox.plan import Job, Launch, View, plan
from goexfsd.sandbox.policy import Policy
from goexfsd.sandbox.run import Outcome, Running, run


def open_cgroups(machine: Machine) -> CgroupRoot:
    """This daemon's control groups, after ending what daemons that are gone left behind."""
    return cgroup.open_cgroups(machine.cgroups)


__all__ = [
    "CgroupRoot",
    "Job",
    "Launch",
    "Machine",
    "Outcome",
    "Policy",
    "Running",
    "View",
    "find_machine",
    "open_cgroups",
    "plan",
    "run",
]
