"""Bring Prometheus' promtool into the cache of hack/kube_assets.py and print where it is; the tests check alerts with it.

Taken from PATH, or unpacked from Debian's package without installing it. Exit status 3: it cannot be had here; standard error says
why.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from kube_assets import MISSING, Unavailable, apt_download, into, run

PACKAGE = "prometheus"


def unpack(directory: Path) -> None:
    """Put promtool into a directory.

    Raises:
        Unavailable: there is no such package here.
    """
    with tempfile.TemporaryDirectory() as other:
        work = Path(other)
        apt_download(PACKAGE, work)
        run("dpkg", "--extract", str(next(work.glob("*.deb"))), str(work / "root"), cwd=work)
        shutil.copy2(work / "root/usr/bin/promtool", directory / "promtool")


def main() -> int:
    """Bring it, and print where it is."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "epp" / "kube"
    try:
        print(shutil.which("promtool") or into(cache / "promtool", unpack))
    except Unavailable as error:
        print(f"promtool: {error}", file=sys.stderr)
        return MISSING
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
