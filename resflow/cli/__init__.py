"""The `resflow` command, one thin file a subcommand."""
