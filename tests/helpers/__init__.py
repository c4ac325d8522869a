"""What the tests share: packages, executors on pipes, processes, and commands."""
