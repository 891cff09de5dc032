"""The words of the product as pure values: standard library only, no clock, no I/O, no randomness."""
