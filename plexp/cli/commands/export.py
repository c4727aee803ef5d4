"""The command `plexp export`."""

from __future__ import annotations

from pathlib import Path

from plexp.cli import commands
from plexp.cli.commands.sync import settled


def main(arguments: list[str]) -> int:
    """Export a trained agent as files that act without plexp, with a script that plays an episode, or to MLflow's registry."""
    parser = commands.run_parser("export", str(main.__doc__))
    parser.add_argument("--to", type=commands.folder("--to"), metavar="FOLDER", help="OUTPUTS/exports/NAME-ID")
    formats = "pt2: torch.export, needs torch alone; onnx: needs onnxruntime alone"
    parser.add_argument("--format", choices=["pt2", "onnx", "all"], default="pt2", help=formats)
    register = "make it a version of this registered model, and its alias best; the MLflow experiment's name"
    parser.add_argument("--register", nargs="?", const=True, metavar="NAME", help=register)
    parser.add_argument("--force", action="store_true", help="also where the alias best is at a better one")
    options = parser.parse_args(arguments)
    formats_asked = ["pt2", "onnx"] if options.format == "all" else [options.format]
    settled(options.uri, options.outputs, quiet=True)
    from plexp.recorded.export import check_formats, check_name, export_run, register_run
    from plexp.tracking.lookup import open_run
    from plexp.tracking.models import refuse_worse

    check_formats(formats_asked)
    with open_run(options.run, outputs=options.outputs, uri=options.uri, env=options.env) as run:
        name = run.experiment if options.register is True else str(options.register)
        if options.register is not None:
            check_name(name)
            run.check_writable("a registered model is")
            if not options.force:
                refuse_worse(run, name)
        folder: Path = options.to or options.outputs / "exports" / f"{run.name}-{run.run_id[:8]}"
        for line in export_run(run, formats_asked, folder):
            print(line)
        if options.register is not None:
            print(register_run(run, name))
    return 0
