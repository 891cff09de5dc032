"""How workers are woken: RQ behind a protocol of two methods, and its double."""
