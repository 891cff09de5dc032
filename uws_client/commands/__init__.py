"""The commands of `uws-job`. What is heavy is imported where it is used, so that ``--help`` is fast."""
