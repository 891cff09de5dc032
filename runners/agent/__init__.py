"""The agent: our program beside the user's code. It stages inputs in, and logs and results out."""
