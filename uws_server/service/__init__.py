"""Use cases, without HTTP and without any one store, queue or runner."""
