"""The store: the btrfs file system that holds layers, checkpoints and before-images.

It is an image in the daemon's state directory that the daemon made, formatted and loop-mounts
(``image``), or a directory on a btrfs that the user has (``directory``).  Which one, and its
identity, stands in a marker beside the catalog (``marker``): a store that was there once is found
again or missed with an error that names the recovery; it is never silently replaced.

Below the store's path::

    sessions/<sid>/layer        the live layer (subvolume)
    sessions/<sid>/layer.<k>    being made or being thrown away: never named by anything
    sessions/<sid>/ckpt/<n>     read-only snapshots of the layer
    sessions/<sid>/lower.<n>/   read-only snapshots of the user's subvolumes (``lowers``)
    sessions/<sid>/steps/       kept output of the steps
    commits/<cid>               before-images and plan of a commit (subvolume)
    trash/                      renamed here in one step, deleted at leisure
    reserve                     room that is given back when the store is full (``usage``)

Everything above a subvolume belongs to root and is closed to others; a layer's inside belongs to
the session's owner.  Functions block for milliseconds; none of them follows a path that a user
may write.  This is the only room that imports ``btrfs`` and ``btrfsutil``; it knows nothing of
what is inside a layer beyond its four names, nor of the catalog.
"""

from goexfsd.store.holdings import Store
from goexfsd.store.opening import close_store, open_store
from goexfsd.store.settings import StoreSettings
from goexfsd.store.usage import Usage

__all__ = ["Store", "StoreSettings", "Usage", "close_store", "open_store"]
