"""Finds images, labels and splits in a folder, a table or a dataset on the Hub."""
