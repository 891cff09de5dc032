"""Where jobs run: runners, the agent, the watcher, and what RQ calls."""
