"""What the tests share: compiling packages, executors on pipes, facts about processes, and commands."""
