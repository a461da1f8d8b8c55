"""Fine-tuning jobs. Imports schemas and services.

emotion_classifier.py  a head on a sentence encoder, or both
thresholds.py          thresholds of a multi-label classifier, and F1 at them
"""
