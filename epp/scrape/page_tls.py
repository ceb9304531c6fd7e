"""How connections to the endpoints' metrics pages are secured: from files, read again when they have changed.

`Connection` asks for the context when it connects. What it protects from: a certificate that was renewed on disk and shown in its
old form until it expires, and files caught in the middle of being replaced, which leave what was there in force.
"""

import logging
import os
from functools import partial
from ssl import CERT_NONE, SSLContext, create_default_context

from epp.errors import ConfigError

_log = logging.getLogger(__name__)


def make_tls(*, verify: bool = False, ca_path: str = "", cert_path: str = "", key_path: str = "") -> SSLContext:
    """Return how to secure connections to endpoints; blocks to read the files.

    Args:
        verify: whether their certificates are checked; model servers in a cluster mostly have self-signed ones.
        ca_path: PEM file of the authorities to trust; empty: those of the system.
        cert_path: PEM file of our own certificate, if they want one.
        key_path: PEM file of its key.

    Raises:
        ConfigError: a file cannot be read or is not what it should be.
    """
    try:
        tls = create_default_context(cafile=ca_path or None)
        if cert_path:
            tls.load_cert_chain(cert_path, key_path or None)
    except OSError as error:  # SSLError is one
        raise ConfigError(f"certificates for scraping: {error}") from None
    if not verify:
        tls.check_hostname = False
        tls.verify_mode = CERT_NONE
    return tls


class PageTls:
    """What `make_tls` makes of files as they are now. The arguments are the same.

    Raises:
        ConfigError: a file cannot be read or is not what it should be.
    """

    def __init__(self, *, verify: bool = False, ca_path: str = "", cert_path: str = "", key_path: str = "") -> None:
        self._make = partial(make_tls, verify=verify, ca_path=ca_path, cert_path=cert_path, key_path=key_path)
        self._paths = [path for path in (ca_path, cert_path, key_path) if path]
        self._seen = self._identity()
        self._context = self._make()

    def context(self) -> SSLContext:
        """Return the context for a new connection. Cost: a `stat` call for each file while they stay as they are."""
        identity = self._identity()
        if identity != self._seen:
            self._seen = identity
            try:
                self._context = self._make()
            except ConfigError as error:
                _log.warning("certificates for scraping not reloaded", extra={"why": error.message})
            else:
                _log.info("certificates for scraping reloaded")
        return self._context

    def _identity(self) -> tuple[tuple[int, int, int], ...] | None:
        """Return what changes when a file is rewritten, renamed over, or its symlink is pointed elsewhere; None: one is missing."""
        try:
            return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in map(os.stat, self._paths))
        except OSError:
            return None
