"""Evaluation of models: sentiment, BLiMP and more. Imports schemas and services; write `from eval.x import ...`, since
the name shadows a builtin. Nothing is here yet."""
