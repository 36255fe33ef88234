"""A black-box suite for HTTP/1.1 proxies that hold a credential: raw bytes in, raw bytes out, both ends scripted."""
