"""Coverage-guided fuzz of the HTTP/2 connection from raw bytes: `python hack/fuzz_http2.py tests/data/http2 -max_total_time=60`.

Needs the `atheris` package, which is not among the project's dependencies. The first byte of an input says how the rest is cut. Any
exception is a finding, and so is a bound that does not hold; inputs that reach new code are added to the corpus directory, which
tests replay.
"""

import sys

import atheris

with atheris.instrument_imports(include=["epp.http2", "hpack"]):
    from tests.property.test_http2 import replay

if __name__ == "__main__":
    atheris.Setup(sys.argv, replay)
    atheris.Fuzz()
