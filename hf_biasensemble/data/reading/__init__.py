"""From a name to a reading plan: which files are read, what the classes and the splits are, and what is left out."""
