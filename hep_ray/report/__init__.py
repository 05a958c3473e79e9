"""What a search has found, in the form in which its study was published."""
