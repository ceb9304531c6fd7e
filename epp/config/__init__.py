"""The configuration file: read, filled in, written back. Plugins are made from it in `epp.scheduling.build`."""

from epp.config.document import EndpointPickerConfig
from epp.config.expansion import expand
from epp.config.reading import load, load_file
from epp.config.sections import Limits, Scrape, Server, Strategy
from epp.config.writing import config_hash, dump

__all__ = ["EndpointPickerConfig", "Limits", "Scrape", "Server", "Strategy", "config_hash", "dump", "expand", "load", "load_file"]
