"""The Kubernetes runner: each attempt is one Job with one pod, the agent its sidecar."""
