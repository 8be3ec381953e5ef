"""The policies that come with goexfs: data, in the form that users' files have.

``default`` adds nothing to the daemon's limits and the built-in policy.  ``strict`` is for what
needs only its roots.  ``dev`` is for builds that fetch things: to choose it is to choose the
network.
"""

from __future__ import annotations

from goexfs.protocol import Rules

MIB = 1024 * 1024

PRESETS: dict[str, Rules] = {
    "default": Rules(),
    "strict": Rules(
        network="none",
        memory=1024 * MIB,
        processes=128,
        wall_seconds=600,
        open_files=1024,
        tmp_bytes=512 * MIB,
        layer_bytes=1024 * MIB,
        layer_inodes=100_000,
        home=False,
        environment=["LANG", "LC_*", "TZ", "TERM", "COLUMNS", "LINES", "NO_COLOR"],
        hide=[".env", ".env.*"],
        read_only=[".git/hooks", ".git/config", ".envrc", ".vscode"],
        unenforced="refuse",
    ),
    "dev": Rules(network="host", tmp_bytes=8192 * MIB),
}
