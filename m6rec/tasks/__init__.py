"""What a model is asked: a task is one object with its examples, its metric and a baseline."""
