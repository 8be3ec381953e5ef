"""``goexfs completion``."""

from __future__ import annotations

import click

from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json


@declare(
    "completion",
    'eval "$(goexfs completion bash)"',
    "goexfs completion fish > ~/.config/fish/completions/goexfs.fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@with_json
def command(shell: str) -> None:
    """Print the completion script of SHELL."""
    from click.shell_completion import get_completion_class

    from goexfs.cli.ending import state
    from goexfs.cli.group import goexfs

    kind = get_completion_class(shell)
    assert kind is not None
    source = kind(goexfs, {}, "goexfs", "_GOEXFS_COMPLETE").source()
    if state().json:
        from goexfs.cli.show import print_json

        print_json({"shell": shell, "script": source})
    else:
        print(source)
