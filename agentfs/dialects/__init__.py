"""The wire formats of model providers: what a request asks for, what an answer cost, how a stream
is cut. Pure: bytes in, bytes out; no sockets, no clocks, nothing but the standard library."""
