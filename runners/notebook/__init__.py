"""The program that runs one notebook, cell by cell, and says truthfully what became of each."""
