"""Compile proto/*.proto to epp/pb: `make proto`, or below the directory given as an argument.

Only message classes are made, no service stubs: the transports register their methods by path and pass bytes through.
"""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def generate(target: Path) -> list[Path]:
    """Write the generated modules and their type stubs to `target`/epp/pb; return their paths.

    The sources are given to the compiler as epp/pb/*.proto, the name under which a descriptor pool knows them: a plain health.proto
    might be somebody else's.

    Raises:
        SystemExit: the compiler refused a file; it has said why on stderr.
    """
    names = sorted(path.stem for path in (ROOT / "proto").glob("*.proto"))
    well_known = files("grpc_tools") / "_proto"
    status = protoc.main(
        ["protoc", f"-Iepp/pb={ROOT / 'proto'}", f"-I{well_known}", f"--python_out={target}", f"--pyi_out={target}"]
        + [f"epp/pb/{name}.proto" for name in names]
    )
    if status:
        raise SystemExit(status)
    return [target / "epp" / "pb" / f"{name}_pb2{suffix}" for name in names for suffix in (".py", ".pyi")]


if __name__ == "__main__":
    for path in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT):
        print(path)
