"""A server's side of an HTTP/2 connection (RFC 9113) without I/O: bytes in, events out; calls in, bytes out.

    frames      the wire format: numbers, and a function for each frame we send
    headers     header blocks: decoding, what a request must look like (section 8.3), a cache of blocks met again
    limits      every bound, its default and its answer
    streams     the states of a stream as a table (section 5.1)
    inflow      frames in, events out
    outflow     what goes out: flow control, queues, fairness (section 5.2)
    events      what the connection tells
    connection  the two halves put together: what a server calls

Enough for gRPC, no more: there is no push, no priority, no upgrade from HTTP/1.1 and no tunnel.
"""
