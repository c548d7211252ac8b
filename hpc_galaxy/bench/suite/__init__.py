"""The suite: how fast each stage is here, and how near to the limit."""
