"""Review warnings: which changes a person should look at first, and why, in one sentence each."""
