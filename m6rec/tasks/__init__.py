"""What one backbone can be asked to do. A task is one file: how it is put into words, its answer, its metric."""
