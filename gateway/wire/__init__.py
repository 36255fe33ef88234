"""HTTP/1.1 as bytes: strict reading of heads and chunks (RFC 9112), no I/O."""
