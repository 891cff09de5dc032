"""Object stores by URL scheme: where uploads, results, logs and manifests live."""
