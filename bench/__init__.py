"""Measures this gateway beside nginx, Envoy and a plain aiohttp proxy: CPU per request first, ratios inside each round."""
