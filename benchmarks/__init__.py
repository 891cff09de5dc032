"""What the server costs, each figure beside a bare loop of the same parts, measured in the same run."""
