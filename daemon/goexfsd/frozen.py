"""The fork server's last import: what is loaded by now is out of the garbage collector's sight.

A collection writes to the head of every object that it sees; in a worker, each such write copies a
page that it shared with the fork server: 12 MB a worker, and the time for 3,000 page faults.
"""

from __future__ import annotations

import gc

gc.collect()
gc.freeze()
