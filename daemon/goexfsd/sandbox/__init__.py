"""The sandbox: what a script may do, as a value; and a bubblewrap that holds it to that.

``plan`` makes a ``Launch`` of a job, a policy and a machine; ``run`` runs it.  The rooms:

- ``policy``, ``presets``, ``secrets``: what a script may do and use; data
- ``resolve``: from what everybody says to one policy; pure
- ``within``: which of its paths are the view's to keep; pure
- ``machine``: what this machine offers, found once
- ``plan``, ``reach``, ``seccomp``, ``interpreter``: pure
- ``look``: what must be looked at before each run
- ``explain``: what would be built, in words
- ``cgroup``: limits, and an end for everything that was started
- ``parked``, ``waiter``, ``launch``, ``run``: processes
"""

from goexfsd.sandbox import parked
from goexfsd.sandbox.explain import explain
from goexfsd.sandbox.machine import Machine, find_machine
from goexfsd.sandbox.parked import CgroupRoot
from goexfsd.sandbox.plan import Job, Launch, View, Way, plan
from goexfsd.sandbox.policy import Policy
from goexfsd.sandbox.run import Outcome, Running, run
from goexfsd.sandbox.within import Rule, rest, rules


def open_cgroups(machine: Machine) -> CgroupRoot:
    """This daemon's control groups, after ending what daemons that are gone left behind.

    Call it, and ``run``, in one and the same thread: bubblewrap dies with it.
    """
    return parked.open_cgroups(machine.cgroups)


__all__ = [
    "CgroupRoot",
    "Job",
    "Launch",
    "Machine",
    "Outcome",
    "Policy",
    "Rule",
    "Running",
    "View",
    "Way",
    "explain",
    "find_machine",
    "open_cgroups",
    "plan",
    "rest",
    "rules",
    "run",
]
