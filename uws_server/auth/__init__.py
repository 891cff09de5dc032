"""Who is asking. One protocol; which authenticators there are, and in which order, the config says."""
