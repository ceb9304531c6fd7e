"""Who carries the bytes of a stream. Nothing of grpc is known outside this package."""
