"""One module a verb, each with its ``command``; ``goexfs.cli.group`` loads them by name."""
