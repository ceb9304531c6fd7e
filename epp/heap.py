"""How the C library's allocator treats memory that was freed.

As it comes, glibc gives freed memory back to the system once half a megabyte lies at the end of its heap, and takes it again, page
by page, for the next long prompt: ten page faults and more for a body of 200 kB, a quarter of what the request costs.
"""

import ctypes

KEPT_BYTES = 64 << 20
"""Freed memory at the end of the heap that is kept for the next request."""
MAPPED_BYTES = 4 << 20
"""A single piece from this size on gets pages of its own, which go back to the system when it is freed."""
# Of malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_freed() -> bool:
    """Keep up to `KEPT_BYTES` of freed memory. Returns False, and changes nothing, where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES))
