"""The command line: one function per command, each a few lines that call what does the work.

Errors that a user can mend (a wrong file, a wrong flag, a port in use) are one line on standard error and exit code 2; anything
else is a defect and shows its traceback.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from epp.demo.options import add_demo_flags
from epp.errors import ConfigError
from epp.flags import add_serve_flags, read_serve_flags
from epp.standalone.flags import add_standalone_flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments without the program's name; None takes the process's.

    Returns:
        The exit code: 0 for success, 2 for what the user can mend.
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
    except ConfigError as error:
        print(f"epp: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        print(f"epp: {place}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def serve(arguments: argparse.Namespace) -> int:
    """Run the picker until it is told to stop."""
    from epp.app import run

    return run(read_serve_flags(arguments))


def config_check(arguments: argparse.Namespace) -> int:
    """Say whether a configuration can be used, and warn of what is likely not meant."""
    from epp.config import load_file
    from epp.scheduling.build import build
    from epp.scheduling.registry import Registry

    plan = build(load_file(arguments.file), Registry(allow_experimental=True))
    for warning in plan.warnings:
        _say(f"warning: {warning}")
    _say(f"{arguments.file}: good")
    return 0


def config_show(arguments: argparse.Namespace) -> int:
    """Print a configuration, as it is or with everything expanded and filled in."""
    from epp.config import dump, load_file
    from epp.scheduling.build import build
    from epp.scheduling.registry import Registry

    config = load_file(arguments.file)
    if arguments.effective:
        config = build(config, Registry(allow_experimental=True)).config
    _say(dump(config).rstrip())
    return 0


def config_schema(_arguments: argparse.Namespace) -> int:
    """Print the JSON schema of the configuration file."""
    from epp.scheduling.registry import Registry
    from epp.scheduling.schema import schema

    _say(json.dumps(schema(Registry(allow_experimental=True)), indent=2))
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Show the product at work."""
    from epp.demo.options import read_demo_flags
    from epp.demo.run import run

    return run(read_demo_flags(arguments))


def standalone(arguments: argparse.Namespace) -> int:
    """Run an Envoy and the picker beside it."""
    from epp.discovery.file import read_endpoints
    from epp.standalone.flags import read_standalone_flags
    from epp.standalone.run import run

    return run(read_standalone_flags(arguments), read_endpoints)


def _say(text: str) -> None:
    print(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="epp",
        description="An endpoint picker for LLM inference: sends each request to the server that most likely holds its prefix.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("serve", help="run the picker beside a gateway", description=serve.__doc__)
    add_serve_flags(run)
    run.set_defaults(command=serve)
    _add_config(commands)
    show = commands.add_parser("demo", help="a real Envoy, the picker and stand-in model servers, all strategies compared")
    add_demo_flags(show)
    show.set_defaults(command=demo)
    alone = commands.add_parser("standalone", help="an Envoy and the picker from one command, for a pool listed in a file")
    add_standalone_flags(alone)
    alone.set_defaults(command=standalone)
    return parser


def _add_config(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    config = commands.add_parser("config", help="check, show or describe a configuration file")
    actions = config.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="say whether a configuration can be used")
    check.add_argument("file", type=Path)
    check.set_defaults(command=config_check)
    show = actions.add_parser("show", help="print a configuration")
    show.add_argument("file", type=Path)
    show.add_argument("--effective", action="store_true", help="with everything expanded and every default filled in")
    show.set_defaults(command=config_show)
    schema = actions.add_parser("schema", help="print the JSON schema of the configuration file")
    schema.set_defaults(command=config_schema)
