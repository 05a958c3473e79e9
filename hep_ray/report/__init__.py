"""Results of a search, in the form in which its study was published."""
