"""The `resflow` command, one thin file a subcommand."""

from __future__ import annotations

import sys

from resflow.errors import ConfigError
from resflow.extras import needed_for


def command() -> None:
    """Run the command line, or say what it needs."""
    try:
        with needed_for("the resflow command needs"):
            from resflow.cli.main import main
    except ConfigError as error:
        sys.exit(f"resflow: {error}")
    main()
