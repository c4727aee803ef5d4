"""The command `plexp ui`."""

from __future__ import annotations

from plexp.cli import commands
from plexp.cli.commands.sync import settled


def main(arguments: list[str]) -> int:
    """Browse the runs in MLflow."""
    parser = commands.parser("ui", str(main.__doc__))
    parser.add_argument("--host", type=commands.text("--host"), default="127.0.0.1")
    parser.add_argument("--port", type=commands.whole("--port", 1, 65535), default=5000)
    options = parser.parse_args(arguments)
    from plexp.cli.ui_server import serve

    settled(options.uri, options.outputs, quiet=True)
    return serve(uri=options.uri, outputs=options.outputs, host=options.host, port=options.port)
