"""A batch server for science archives: UWS 1.1 in front, RQ workers behind, results in object storage."""

__version__ = "0.1.0"
