"""The command line: one function per command, each a few lines that call what does the work.

Errors that a user can mend (a wrong file, a wrong flag, a port in use) are one line on standard error and exit code 2; anything
else is a defect and shows its traceback.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from epp.demo.options import add_demo_flags
from epp.errors import ConfigError
from epp.flags import add_serve_flags, read_serve_flags
from epp.standalone.flags import add_standalone_flags

if TYPE_CHECKING:
    from epp.admin.remote import Remote

HELP = ("-h", "--help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments without the program's name; None takes the process's.

    Returns:
        The exit code: 0 for success, 2 for what the user can mend.
    """
    arguments = _parser().parse_args(_with_command(sys.argv[1:] if argv is None else argv))
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


def config_status(arguments: argparse.Namespace) -> int:
    """Say which configuration a running picker has in force, and what is wrong with a newer one."""
    from epp.admin.remote import status_lines

    return _say_lines(status_lines(_remote(arguments).report()))


def config_history(arguments: argparse.Namespace) -> int:
    """List the configurations that have been in force in a running picker."""
    from epp.admin.remote import history_lines

    return _say_lines(history_lines(_remote(arguments).report()))


def config_diff(arguments: argparse.Namespace) -> int:
    """Show what changed between a generation and another one, or the one in force."""
    newer = "" if arguments.newer is None else f"&to={arguments.newer}"
    return _say_lines(_remote(arguments).diff(f"from={arguments.older}{newer}"))


def config_rollback(arguments: argparse.Namespace) -> int:
    """Put an earlier configuration of a running picker in force, and keep it until it is unpinned."""
    from epp.admin.remote import status_lines

    return _say_lines(status_lines(_remote(arguments).order("rollback", generation=arguments.generation)))


def config_pin(arguments: argparse.Namespace) -> int:
    """Have a running picker keep the configuration it has, whatever its file or ConfigMap says."""
    from epp.admin.remote import status_lines

    return _say_lines(status_lines(_remote(arguments).order("pin")))


def config_unpin(arguments: argparse.Namespace) -> int:
    """Have a running picker follow its file or ConfigMap again, beginning with what that says now."""
    from epp.admin.remote import status_lines

    return _say_lines(status_lines(_remote(arguments).order("unpin")))


def _remote(arguments: argparse.Namespace) -> Remote:
    from epp.admin.remote import Remote
    from epp.config.file_watch import read_text

    token = read_text(arguments.token_file).strip() if arguments.token_file is not None else ""
    return Remote(arguments.admin, token)


def _say_lines(lines: Iterable[str]) -> int:
    for line in lines:
        _say(line)
    return 0


def _say(text: str) -> None:
    print(text)


def _with_command(given: Sequence[str]) -> Sequence[str]:
    """Return the arguments with `serve` before flags that no command stands before, as in deployments of the reference picker."""
    return ["serve", *given] if given and given[0].startswith("-") and given[0] not in HELP else given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="epp",
        description="An endpoint picker for LLM inference: sends each request to the server that most likely holds its prefix.",
        epilog="Flags without a command are those of serve, so that deployments of the reference start with this image.",
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
    config = commands.add_parser("config", help="check or show a configuration file; see, take back or pin a running picker's")
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
    live = argparse.ArgumentParser(add_help=False)
    live.add_argument("--admin", metavar="URL", default="http://127.0.0.1:9090", help="metrics port of the picker (%(default)s)")
    live.add_argument("--token-file", type=Path, metavar="FILE", help="bearer token, where that port wants one")
    for name, command, text in (
        ("status", config_status, "which configuration is in force, and what is wrong with a newer one"),
        ("history", config_history, "the configurations that were in force before"),
        ("diff", config_diff, "what changed since a generation"),
        ("rollback", config_rollback, "put an earlier configuration in force, and keep it"),
        ("pin", config_pin, "keep the configuration in force, whatever comes"),
        ("unpin", config_unpin, "follow the file or the ConfigMap again"),
    ):
        action = actions.add_parser(name, help=text, parents=[live], description=command.__doc__)
        action.set_defaults(command=command)
        if command is config_diff:
            action.add_argument("older", type=int, metavar="GENERATION")
            action.add_argument("newer", type=int, metavar="GENERATION", nargs="?", help="the one in force without it")
        elif command is config_rollback:
            action.add_argument("generation", type=int, metavar="GENERATION", nargs="?", help="the one before without it")
