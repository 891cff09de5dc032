"""Job records: the protocol, the one in Redis, and its double in memory. One contract suite tests both."""
