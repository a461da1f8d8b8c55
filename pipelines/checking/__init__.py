"""The verbs that need no engine: what can be known before a job starts.

doctor.py  the verb doctor: this machine, its packages, its ports and Ray
"""
